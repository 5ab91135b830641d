//! Programs that tests write and then run.
//!
//! Tests are threads of one process. A child that another of them is starting has, until its exec, a copy of every
//! descriptor, and while anybody has a file open for writing nobody can execute it (ETXTBSY, execve(2)). So programs are
//! written by a process of their own: nobody else ever has them open.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Write this to `path`, for all to run.
pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    let mut writer = Command::new("sh")
        .args(["-ec", "cat >\"$1\"; chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("start sh");
    let mut input = writer.stdin.take().expect("the writer has an input");
    input.write_all(content.as_ref()).expect("hand it over");
    drop(input);
    let ended = writer.wait().expect("wait for the writer");
    assert!(ended.success(), "{} was not written", path.display());
}

/// A copy of a program, permissions and all.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let ended = Command::new("cp")
        .args([from, to])
        .status()
        .expect("start cp");
    assert!(ended.success(), "{} was not copied", from.display());
}
