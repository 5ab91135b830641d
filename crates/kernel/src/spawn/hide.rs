//! Unix sockets that a command cannot reach: something else lies over them, in mounts of the command's own.
//!
//! `/dev/null` does, as engines of containers have it lie over what is not to be seen. To connect to what is no socket is
//! refused (ECONNREFUSED), as if nobody listened; a kernel without hooks for unix sockets knows no other way.
//!
//! What lies there holds for a path, and is gone if whoever owns the socket removes it: the kernel takes off, in all
//! mount namespaces, what is mounted on a name that is no more.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Ready to be covered, with nothing left to allocate.
#[derive(Debug)]
pub struct HiddenSockets(Vec<CString>);

impl HiddenSockets {
    /// These, each of which must be there when the command is started.
    ///
    /// # Errors
    /// If one is no path.
    pub fn prepare<'p>(paths: impl IntoIterator<Item = &'p Path>) -> io::Result<Self> {
        let paths = paths.into_iter();
        let paths = paths.map(|path| CString::new(path.as_os_str().as_bytes()));
        Ok(Self(paths.collect::<Result<_, _>>()?))
    }

    /// Mounts of its own for the calling process. What is mounted outside later is seen inside, and nothing that is mounted
    /// inside is seen outside. Only async-signal-safe calls.
    pub(super) fn own_mounts() -> Result<(), Errno> {
        // SAFETY: no table of descriptors is unshared, and there is no other thread in this process.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(
            c"/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
    }

    /// Cover them, in mounts of the process's own. Only async-signal-safe calls.
    pub(super) fn cover(&self) -> Result<(), Errno> {
        self.0
            .iter()
            .try_for_each(|path| mount_bind(c"/dev/null", path.as_c_str()))
    }
}
