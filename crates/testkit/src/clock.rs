//! Wall clocks that tests set: libfaketime, put under a process, reads how far from the true time it shall be from a file, each
//! time it is asked. Monotonic clocks go on as they are.
use std::path::{Path, PathBuf};

/// Where libraries of Debian's package `libfaketime` may be.
const FOLDERS: &[&str] = &["/usr/lib", "/usr/lib64", "/usr/local/lib"];
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// What a process is started with whose wall clock is set by `file`.
///
/// # Panics
/// When libfaketime is not installed.
pub fn environment(file: &Path) -> [(&'static str, PathBuf); 5] {
    let on = || PathBuf::from("1");
    [
        ("LD_PRELOAD", library()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_owned()),
        ("FAKETIME_NO_CACHE", on()),
        ("DONT_FAKE_MONOTONIC", on()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
    ]
}

/// Sets the clock of whoever reads this file.
///
/// # Panics
/// When it cannot be written.
pub fn set(file: &Path, ahead_s: i64) {
    // Whole, or not at all: it is read at every look at the clock.
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{ahead_s:+}s")).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

fn library() -> PathBuf {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = FOLDERS.iter().flat_map(|folder| [Path::new(folder).join(&multiarch), folder.into()]);
    let found = folders.map(|folder| folder.join(LIBRARY)).find(|library| library.exists());
    found.expect("these tests set clocks by libfaketime: install Debian's package `faketime`")
}
