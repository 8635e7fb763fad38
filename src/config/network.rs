//! Networks of addresses: `10.0.0.0/8`, `::1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network, or one address. An IPv4 address in its IPv6 form (`::ffff:10.0.0.1`, as a dual-stack listener reports it) is the IPv4 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork {
    /// Host bits are zero.
    address: IpAddr,
    prefix: u8,
}

impl IpNetwork {
    /// `127.0.0.0/8` and `::1`.
    #[must_use]
    pub fn loopback() -> Vec<Self> {
        vec![
            Self { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 },
            Self { address: Ipv6Addr::LOCALHOST.into(), prefix: 128 },
        ]
    }

    /// Whether `address` is in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => masked_v4(address, self.prefix) == network,
            (IpAddr::V6(network), IpAddr::V6(address)) => masked_v6(address, self.prefix) == network,
            _ => false,
        }
    }
}

/// `address` without the bits behind the first `prefix`.
fn masked_v4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

/// `address` without the bits behind the first `prefix`.
fn masked_v6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpNetworkError {
    /// Neither an address nor a network.
    #[error("expected an address or a network such as \"10.0.0.0/8\"")]
    Malformed,
    /// The prefix does not cover all bits that are set: probably another network was meant.
    #[error("the address has bits beyond its prefix; did you mean \"{0}\"?")]
    HostBits(IpNetwork),
}

impl FromStr for IpNetwork {
    type Err = IpNetworkError;

    fn from_str(text: &str) -> Result<Self, IpNetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| IpNetworkError::Malformed)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.map_or(Ok(bits), str::parse).map_err(|_| IpNetworkError::Malformed)?;
        if prefix > bits {
            return Err(IpNetworkError::Malformed);
        }
        // An IPv6 spelling of an IPv4 network would never match: addresses are compared in their canonical form.
        let (address, prefix) = match (address.to_canonical(), address) {
            (IpAddr::V4(canonical), IpAddr::V6(_)) if prefix >= 96 => (IpAddr::V4(canonical), prefix - 96),
            _ => (address, prefix),
        };
        let network = match address {
            IpAddr::V4(address) => IpAddr::V4(masked_v4(address, prefix)),
            IpAddr::V6(address) => IpAddr::V6(masked_v6(address, prefix)),
        };
        if network != address {
            return Err(IpNetworkError::HostBits(Self { address: network, prefix }));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a valid network")
    }

    #[test]
    fn addresses_inside_and_outside() {
        for (text, inside, outside) in [
            (
                "10.0.0.0/8",
                vec!["10.0.0.0", "10.255.1.2", "::ffff:10.1.1.1"],
                vec!["11.0.0.0", "9.255.255.255", "::a00:1"],
            ),
            ("192.0.2.7", vec!["192.0.2.7"], vec!["192.0.2.6", "192.0.2.8"]),
            ("0.0.0.0/0", vec!["0.0.0.0", "255.255.255.255"], vec!["::1"]),
            ("::1", vec!["::1"], vec!["::2", "127.0.0.1"]),
            ("2001:db8::/33", vec!["2001:db8:7fff::1"], vec!["2001:db8:8000::", "2001:db7::"]),
            ("::/0", vec!["::1", "ffff::"], vec!["1.2.3.4"]),
            ("::ffff:10.0.0.0/104", vec!["10.1.1.1"], vec!["11.1.1.1"]),
        ] {
            let network = network(text);
            for address in inside {
                assert!(network.contains(address.parse().expect("an address")), "{address} in {text}");
            }
            for address in outside {
                assert!(!network.contains(address.parse().expect("an address")), "{address} not in {text}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0", "localhost", "10.0.0.0/-1", "1.2.3.4/8/8"] {
            assert_eq!(text.parse::<IpNetwork>(), Err(IpNetworkError::Malformed), "{text:?}");
        }
        assert_eq!("10.1.0.0/8".parse::<IpNetwork>(), Err(IpNetworkError::HostBits(network("10.0.0.0/8"))));
    }

    #[test]
    fn written_back() {
        for text in ["10.0.0.0/8", "::1/128"] {
            assert_eq!(network(text).to_string(), text);
        }
    }
}
