//! Who is at the other end of a unix socket, beyond what has a safe wrapper elsewhere.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Groups that are asked for at once; whoever is in more has them asked for again.
const GROUPS: usize = 256;

/// A descriptor of the process that connected; none where the kernel does not give one (before 6.5).
///
/// # Errors
/// Of a process that has ended, or that is none (a socket pair).
pub fn process(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: writes at most `length` octets, those of `fd`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        // SAFETY: a fresh descriptor that nobody else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => Ok(None),
        _ => Err(error),
    }
}

/// The supplementary groups of whoever connected, when it did.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0 as libc::gid_t; GROUPS];
    loop {
        let mut length = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: writes at most `length` octets, those of `groups`.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let have = length as usize / size_of::<libc::gid_t>();
        if done == 0 {
            groups.truncate(have);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too many of them: it says how many.
        if error.raw_os_error() != Some(libc::ERANGE) || have <= groups.len() {
            return Err(error);
        }
        groups.resize(have, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_connected_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _caller = UnixStream::connect(&path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let own = rustix::process::getgroups().unwrap();
        let own: Vec<u32> = own.iter().map(|group| group.as_raw()).collect();
        assert_eq!(groups(stream.as_fd()).unwrap(), own);
        if let Some(held) = process(stream.as_fd()).unwrap() {
            let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", held.as_raw_fd()));
            let pid = format!("Pid:\t{}\n", std::process::id());
            assert!(told.unwrap().contains(&pid));
        }
    }
}
