//! Where recorded input lies, for tests and measurements. The project never contains it.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The recorded file of this name: in the directory `TIDEGATE_DATA` if that is set, else in `../shared/data` beside the
/// checkout. `None` if it is not set and there is no such file; if it is set the file is expected to be there.
#[must_use]
pub fn recorded(name: &str) -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("TIDEGATE_DATA") {
        return Some(Path::new(&directory).join(name));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    path.exists().then_some(path)
}
