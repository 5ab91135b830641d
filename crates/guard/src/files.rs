//! Files whose paths came from a process of the run.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;

/// Open a file to read it; none of what is no file, longer than `most` bytes, or gone. Opening must not wait for
/// whoever writes to a pipe, nor do anything to a device.
pub(crate) fn open(path: &str, most: u64) -> Option<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.len() <= most).then_some(file)
}
