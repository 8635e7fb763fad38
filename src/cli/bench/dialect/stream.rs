//! A byte stream within WebSocket messages: protocols that were made for TCP do not care where a message ends.

/// What of the stream was not understood yet.
#[derive(Debug, Default)]
pub(super) struct Stream(Vec<u8>);

impl Stream {
    /// Goes on with `bytes`. `next` is shown the stream from the first thing that was not taken, and says how long that is;
    /// 0 if it is not all there.
    pub(super) fn go_on(
        &mut self,
        bytes: &[u8],
        mut next: impl FnMut(&[u8]) -> Result<usize, String>,
    ) -> Result<(), String> {
        let mut all = |bytes: &[u8]| {
            let mut used = 0;
            loop {
                match next(&bytes[used..])? {
                    0 => return Ok::<_, String>(used),
                    len => used += len,
                }
            }
        };
        if self.0.is_empty() {
            let used = all(bytes)?;
            self.0.extend_from_slice(&bytes[used..]);
        } else {
            self.0.extend_from_slice(bytes);
            let used = all(&self.0)?;
            self.0.drain(..used);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_a_stream_is_cut_it_says_the_same() {
        // Each thing begins with its length.
        let bytes = [3, 7, 8, 1, 4, 9, 9, 9, 2, 5];
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let (mut stream, mut seen) = (Stream::default(), Vec::new());
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    let next = |rest: &[u8]| {
                        let whole = rest.first().and_then(|len| rest.get(..usize::from(*len)));
                        seen.extend(whole.map(<[u8]>::to_vec));
                        Ok(whole.map_or(0, <[u8]>::len))
                    };
                    stream.go_on(part, next).expect("nothing is wrong");
                }
                assert_eq!(seen.concat(), bytes, "cut at {first} and {second}");
                assert_eq!(seen.len(), 4);
            }
        }
    }
}
