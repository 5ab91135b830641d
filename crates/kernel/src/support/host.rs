//! Facts that files, the kernel's name and a few sockets tell.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Resource;

use super::{Capabilities, Lockdown};

/// `None` where looking was refused.
pub(super) fn exists(path: &Path) -> Option<bool> {
    path.try_exists().ok()
}

pub(super) fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

pub(super) fn arch() -> String {
    rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned()
}

pub(super) fn capabilities() -> Option<Capabilities> {
    parse_capabilities(&fs::read_to_string("/proc/self/status").ok()?)
}

/// From the effective set's line in `/proc/self/status`.
fn parse_capabilities(status: &str) -> Option<Capabilities> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    let set = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |number: u32| set >> number & 1 == 1;
    // Numbers from linux/capability.h.
    Some(Capabilities {
        net_admin: has(12),
        net_raw: has(13),
        sys_admin: has(21),
        sys_resource: has(24),
        perfmon: has(38),
        bpf: has(39),
    })
}

/// securityfs may well not be mounted (containers, rescue shells): then it cannot be told.
pub(super) fn lockdown() -> Option<Lockdown> {
    parse_lockdown(&fs::read_to_string("/sys/kernel/security/lockdown").ok()?)
}

/// The state in force stands in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<Lockdown> {
    match text.split_once('[')?.1.split_once(']')?.0 {
        "none" => Some(Lockdown::Off),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

pub(super) fn lsm() -> Option<Vec<String>> {
    let list = fs::read_to_string("/sys/kernel/security/lsm").ok()?;
    Some(
        list.trim()
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

pub(super) fn unprivileged_bpf_disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The kernel has the namespaces of a contained run. Whether this process may make some is another matter.
pub(super) fn namespaces() -> Option<bool> {
    let all = ["pid", "mnt", "cgroup"].map(|kind| exists(&Path::new("/proc/self/ns").join(kind)));
    match exists(Path::new("/proc/self/ns")) {
        Some(true) if all.contains(&Some(false)) => Some(false),
        Some(true) if all.iter().all(Option::is_some) => Some(true),
        _ => None,
    }
}

/// What sd_booted(3) looks at.
pub(super) fn systemd() -> Option<bool> {
    exists(Path::new("/run/systemd/system"))
}

/// Does PID 1 (or, where its own socket is not there, the system bus) speak D-Bus within `patience`?
pub(super) fn systemd_answers(patience: Duration) -> Option<bool> {
    for path in ["/run/systemd/private", "/run/dbus/system_bus_socket"] {
        match greet(path, patience) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS | Errno::PERM) => return None,
            Err(_) => return Some(false),
            Ok(answered) => return Some(answered),
        }
    }
    Some(false)
}

/// The first exchange of a D-Bus connection, which needs no library: a NUL, `AUTH EXTERNAL` with the
/// user id in hex, and `OK` in return. The socket does not block, so a full backlog is silence too.
fn greet(path: &str, patience: Duration) -> Result<bool, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    let uid: String = rustix::process::geteuid()
        .as_raw()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    rustix::net::send(
        &socket,
        format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes(),
        SendFlags::NOSIGNAL,
    )?;
    let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
    let mut waiting = [PollFd::new(&socket, PollFlags::IN)];
    if rustix::event::poll(&mut waiting, Some(&patience))? == 0 {
        return Ok(false);
    }
    let mut answer = [0; 64];
    let (_, got) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    Ok(answer[..got.min(answer.len())].starts_with(b"OK"))
}

/// A host without the file asks the name server on loopback (resolv.conf(5)).
pub(super) fn resolvers() -> Option<Vec<IpAddr>> {
    match fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => Some(parse_resolvers(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Some(vec![IpAddr::from([127, 0, 0, 1])])
        }
        Err(_) => None,
    }
}

fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            // A link-local server has its interface behind a percent sign.
            words.next()?.split('%').next()?.parse().ok()
        })
        .collect()
}

pub(super) fn locked_memory() -> u64 {
    rustix::process::getrlimit(Resource::Memlock)
        .current
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn capabilities_come_from_the_effective_set() {
        let root =
            parse_capabilities("CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n").unwrap();
        assert!(root.bpf && root.sys_admin && root.net_admin && root.perfmon && root.net_raw);
        let bpf_only = parse_capabilities("CapEff:\t0000008000000000\n").unwrap();
        assert_eq!(
            bpf_only,
            Capabilities {
                bpf: true,
                ..Capabilities::default()
            }
        );
        assert_eq!(parse_capabilities("CapPrm:\t0\n"), None);
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(
            parse_lockdown("[none] integrity confidentiality\n"),
            Some(Lockdown::Off)
        );
        assert_eq!(
            parse_lockdown("none integrity [confidentiality]\n"),
            Some(Lockdown::Confidentiality)
        );
        assert_eq!(parse_lockdown("none integrity\n"), None);
    }

    #[test]
    fn name_servers_are_read_in_order() {
        let text = "search corp\nnameserver 10.0.0.2\n#nameserver 1.1.1.1\n nameserver fe80::1%eth0\nnameserver x\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(parse_resolvers(text), expected);
    }

    #[test]
    fn a_bus_answers_or_is_silent() {
        let dir = std::env::temp_dir().join(format!("blackstart-bus-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let path = path.to_str().unwrap().to_owned();

        // Nobody accepts: the greeting waits in the backlog.
        assert_eq!(greet(&path, Duration::from_millis(20)), Ok(false));

        let server = thread::spawn(move || {
            // The first in the backlog is the one that gave up.
            let mut kept = Vec::new();
            for _ in 0..2 {
                let (mut peer, _) = listener.accept().unwrap();
                let mut greeting = [0; 64];
                let got = peer.read(&mut greeting).unwrap();
                assert!(greeting[..got].starts_with(b"\0AUTH EXTERNAL "));
                let _gone_already = peer.write_all(b"OK 1234deadbeef\r\n");
                kept.push(peer);
            }
        });
        assert_eq!(greet(&path, Duration::from_secs(5)), Ok(true));
        server.join().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(greet(&path, Duration::from_millis(20)), Err(Errno::NOENT));
    }
}
