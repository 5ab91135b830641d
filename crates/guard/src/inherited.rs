//! Sockets that the command gets from its caller. They were made before the run, outside of its cgroup, and
//! the kernel judges a socket by the cgroup that it was made in: what goes through them is not seen.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, getpeername, getsockname};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Sockets told one by one.
const MOST: usize = 32;

/// One line for each.
pub(crate) fn sockets() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let mut numbers: Vec<i32> = entries
        .flatten()
        .filter(|entry| {
            let target = fs::read_link(entry.path());
            target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:["))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| !ends_at_exec(*number))
        .collect();
    numbers.sort_unstable();
    let mut told: Vec<_> = numbers
        .into_iter()
        .filter_map(|number| {
            let (family, what) = look(number);
            counts(number, family).then(|| {
                format!("descriptor {number}, {what}, was made before the run: what goes through it is not seen")
            })
        })
        .collect();
    if let Some(more) = told.len().checked_sub(MOST).filter(|more| *more > 0) {
        told.truncate(MOST);
        told.push(format!("{more} more sockets were made before the run"));
    }
    told
}

/// Standard input and output may be a socket to whoever started us (sshd, inetd), which is no way out
/// unless it leads over a network. Not known counts.
fn counts(number: i32, family: Option<AddressFamily>) -> bool {
    number > 2
        || family.is_none_or(|family| [AddressFamily::INET, AddressFamily::INET6].contains(&family))
}

fn ends_at_exec(number: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .is_some_and(|flags| OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC))
}

/// Its family, and what it is in words.
fn look(number: i32) -> (Option<AddressFamily>, String) {
    let unknown = || (None, "a socket".to_owned());
    let Some(socket) = copy(number) else {
        return unknown();
    };
    let Ok(family) = socket_domain(&socket) else {
        return unknown();
    };
    let what = match family {
        AddressFamily::INET | AddressFamily::INET6 => {
            let peer = getpeername(&socket).ok().flatten();
            let own = getsockname(&socket).ok();
            match (
                peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
                own.and_then(|own| SocketAddr::try_from(own).ok()),
            ) {
                (Some(peer), _) => format!("an internet socket to {peer}"),
                (None, Some(own)) => format!("an internet socket at {own}"),
                (None, None) => "an internet socket".to_owned(),
            }
        }
        AddressFamily::UNIX => "a unix socket".to_owned(),
        AddressFamily::NETLINK => "a netlink socket".to_owned(),
        AddressFamily::PACKET => "a packet socket".to_owned(),
        other => format!("a socket of family {}", other.as_raw()),
    };
    (Some(family), what)
}

/// A descriptor known by its number only, as one that we own.
fn copy(number: i32) -> Option<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_setfd};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_that_the_command_would_get_is_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let prefix = format!("descriptor {}, ", socket.as_raw_fd());
        let told = || sockets().into_iter().find(|line| line.starts_with(&prefix));
        assert_eq!(told(), None);
        fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        let line = told().unwrap();
        assert!(line.contains(" at 127.0.0.1:"), "{line}");
        socket.connect("127.0.0.1:9").unwrap();
        assert!(told().unwrap().contains(" to 127.0.0.1:9,"));
    }

    #[test]
    fn a_terminal_by_way_of_a_local_socket_is_no_way_out() {
        assert!(!counts(0, Some(AddressFamily::UNIX)));
        assert!(counts(1, Some(AddressFamily::INET6)) && counts(2, None));
        assert!(counts(3, Some(AddressFamily::UNIX)));
    }
}
