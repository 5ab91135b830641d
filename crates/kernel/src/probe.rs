//! The self-probe: a short-lived process inside the run's cgroup that tries one denied and one allowed
//! address of each family. No packet leaves: connecting a datagram socket only asks the hooks and the routes.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::spawn::clone_child;
use crate::{Error, ErrorKind};

/// Attempts that the kernel must have counted afterwards. A host without IPv6 makes two fewer.
pub(crate) const ATTEMPTS: u64 = 2;

/// Addresses reserved for documentation (RFC 5737, RFC 3849): no deployment needs them, so that their verdicts
/// may be set for a moment, whatever the policy says of loopback.
pub(crate) const DENIED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The ones to be let through.
pub(crate) const ALLOWED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// The discard port (RFC 863): nobody waits there, and nothing is sent.
const PORT: u16 = 9;

/// What the probing process saw, as its exit status.
const DENIED_PASSED: i32 = 1;
const ALLOWED_REFUSED: i32 = 2;

/// Try [`DENIED`] and [`ALLOWED`] from inside `cgroup`.
pub(crate) fn from_inside(cgroup: BorrowedFd<'_>) -> Result<(), Error> {
    let failed = |error: io::Error| Error::caused(ErrorKind::Io, "run the self-probe", error);
    let child = clone_child(Some(cgroup), |_| {
        let mut status = 0;
        for (denied, allowed) in DENIED.into_iter().zip(ALLOWED) {
            // No socket of that family: nothing to guard.
            if connect(denied).is_some_and(|errno| errno != libc::ECONNREFUSED) {
                status |= DENIED_PASSED;
            }
            // Without a route the hook has passed all the same.
            if connect(allowed) == Some(libc::ECONNREFUSED) {
                status |= ALLOWED_REFUSED;
            }
        }
        // SAFETY: ends this process only, without running any destructor of the supervisor's.
        unsafe { libc::_exit(status) }
    })
    .map_err(failed)?;
    let status = loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => break status.exit_status(),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    };
    let wrong = match status {
        Some(0) => return Ok(()),
        Some(DENIED_PASSED) => "a denied address was let through",
        Some(ALLOWED_REFUSED) => "an allowed address was refused",
        Some(_) => "denied addresses were let through and allowed ones refused",
        None => "the probing process was killed",
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("pass the self-probe: {wrong}"),
    ))
}

/// errno of connecting a datagram socket to `address`; 0 for success, `None` without such sockets. Only
/// async-signal-safe calls: this runs in a clone of a process that may have threads.
fn connect(address: IpAddr) -> Option<i32> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: socket takes plain numbers.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    let result = match address {
        IpAddr::V4(v4) => {
            // SAFETY: all-zero is a valid sockaddr_in.
            let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            to.sin_family = libc::AF_INET as u16;
            to.sin_port = PORT.to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.octets());
            // SAFETY: `to` is a whole sockaddr_in of the size told.
            unsafe {
                libc::connect(
                    fd,
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in>() as u32,
                )
            }
        }
        IpAddr::V6(v6) => {
            // SAFETY: all-zero is a valid sockaddr_in6.
            let mut to: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            to.sin6_family = libc::AF_INET6 as u16;
            to.sin6_port = PORT.to_be();
            to.sin6_addr.s6_addr = v6.octets();
            // SAFETY: `to` is a whole sockaddr_in6 of the size told.
            unsafe {
                libc::connect(
                    fd,
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in6>() as u32,
                )
            }
        }
    };
    let errno = if result == 0 {
        0
    } else {
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    };
    // SAFETY: `fd` was opened above and is closed once.
    unsafe { libc::close(fd) };
    Some(errno)
}
