//! The self-probe: a short-lived process inside the run's cgroup that tries one denied and one allowed address
//! through the hooks of either family. No packet leaves: connecting a datagram socket only asks the hooks and
//! the routes.
//!
//! The addresses are loopback's, so that a guard around this one lets them pass too; which verdict they meet is
//! set for that moment, whatever the policy says of loopback.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::spawn::{clone_child, join_in_child};
use crate::{Error, ErrorKind};

/// Must be refused.
pub(crate) const DENIED: Ipv4Addr = Ipv4Addr::new(127, 254, 254, 253);

/// Must be let through.
pub(crate) const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 254, 254, 254);

/// Exit status of a probing process whose denied attempt passed.
const PASSED: i32 = 100;

/// Added to the exit status of one that was not born in the cgroup.
const LATER: i32 = 64;

/// Of one that could not get into the cgroup.
const OUTSIDE: i32 = 101;

/// The discard port (RFC 863): nobody waits there, and nothing is sent.
const PORT: u16 = 9;

/// Try [`DENIED`] and [`ALLOWED`] from inside `cgroup`, plain and mapped into IPv6. How often each was tried, and whether
/// by a process that was born there.
///
/// A denied address that answers anything but ECONNREFUSED fails the probe. That an allowed one passed is for the
/// record to tell: a guard around this one may refuse it too.
pub(crate) fn from_inside(cgroup: BorrowedFd<'_>) -> Result<(u64, bool), Error> {
    let failed = |error: io::Error| Error::caused(ErrorKind::Io, "run the self-probe", error);
    let child = clone_child(Some(cgroup), 0, |joined| {
        if !joined && !join_in_child(cgroup) {
            // SAFETY: ends this process only, without running any destructor of the supervisor's.
            unsafe { libc::_exit(OUTSIDE) };
        }
        let mut tried = 0;
        for map in [false, true] {
            let form = |v4: Ipv4Addr| {
                if map {
                    IpAddr::V6(v4.to_ipv6_mapped())
                } else {
                    IpAddr::V4(v4)
                }
            };
            match connect(form(DENIED)) {
                // No socket of that family: nothing to guard.
                None => continue,
                Some(libc::ECONNREFUSED) => tried += 1,
                // SAFETY: ends this process only, without running any destructor of the supervisor's.
                Some(_) => unsafe { libc::_exit(PASSED) },
            }
            connect(form(ALLOWED));
        }
        // SAFETY: as above.
        unsafe { libc::_exit(if joined { tried } else { tried | LATER }) }
    })
    .map_err(failed)?;
    let status = loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => break status.exit_status(),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    };
    match status {
        Some(PASSED) => Err(Error::new(
            ErrorKind::Unsupported,
            "pass the self-probe: a denied address was let through",
        )),
        Some(OUTSIDE) => Err(Error::new(
            ErrorKind::Io,
            "run the self-probe: its process cannot join the cgroup",
        )),
        Some(tried) => Ok(((tried & !LATER).unsigned_abs().into(), tried & LATER == 0)),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "pass the self-probe: its process was killed",
        )),
    }
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
