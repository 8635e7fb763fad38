//! Where recorded input lies, for tests and measurements. The project never contains it.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The recorded file of this name: in the directory `TIDEGATE_DATA` if that is set, and then it is expected to be there;
/// docs/benchmarks.md has the layout. Else where a developer may have put it beside the checkout, if it is there.
#[must_use]
pub fn recorded(name: &str) -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("TIDEGATE_DATA") {
        return Some(Path::new(&directory).join(name));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    path.exists().then_some(path)
}
