//! Unix sockets, however their paths are spelled.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use blackstart_core::record::Verdict;
use rustix::net::SocketAddrUnix;

use super::wire::Wire;

/// A directory below /run, which nobody else's test has, and that this thread works in.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bs-").tempdir_in("/run");
        let place = Self(dir.unwrap());
        // SAFETY: this thread's working directory is its own from here on, and nothing else is.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.unwrap();
        fs::create_dir(place.path().join("sub")).unwrap();
        std::env::set_current_dir(place.path()).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Spellings of the socket `name` in here.
    fn spellings(&self, name: &str) -> Vec<String> {
        let at = self.path().to_str().unwrap();
        let below = at.strip_prefix("/run/").unwrap();
        let mut spellings = vec![
            format!("{at}/{name}"),
            format!("/var{at}/{name}"),
            format!("/{at}//{name}"),
            format!("{at}/./{name}"),
            format!("{at}/sub/.././/{name}"),
            format!("/run/../run/{below}/{name}"),
            format!("/../{at}/{name}"),
            format!("/var/./run//{below}/{name}"),
            name.to_owned(),
            format!("./{name}"),
            format!("sub/../{name}"),
            format!("../{below}/./{name}"),
            format!("../../run/{below}/{name}"),
            format!("../../../../../run/{below}/{name}"),
        ];
        // Not where the working directory's own path is to be seen.
        if fs::read_link("/var/run").is_err() {
            spellings.retain(|path| !path.starts_with("/var"));
        }
        spellings
    }
}

#[test]
fn each_spelling_of_a_path_is_the_same_socket() {
    let place = Place::new();
    let at = place.path().display().to_string();
    let wire = Wire::delegating(&format!(
        "default: allow\nrules:\n  - deny: unix:{at}/denied*\n"
    ));
    let names = ["denied", "open", "denied-log"];
    let _stream = names.map(|name| UnixListener::bind(format!("{at}/{name}")).unwrap());
    let logs = ["denied-d", "open-d"];
    let logs = logs.map(|name| UnixDatagram::bind(format!("{at}/{name}")).unwrap());
    for (name, kind) in [
        ("denied", libc::SOCK_STREAM),
        ("open", libc::SOCK_STREAM),
        ("denied-d", libc::SOCK_DGRAM),
        ("open-d", libc::SOCK_DGRAM),
    ] {
        let spellings = place.spellings(name);
        for spelling in &spellings {
            let to = SocketAddrUnix::new(spelling).unwrap();
            let client = wire.unix(kind);
            let reached = rustix::net::connect(&client, &to);
            let sent = match kind {
                libc::SOCK_DGRAM => {
                    let flags = rustix::net::SendFlags::empty();
                    rustix::net::sendto(wire.unix(kind), b"x", flags, &to).map(|_| ())
                }
                _ => reached,
            };
            let wanted = match name.starts_with("denied") {
                true => Err(rustix::io::Errno::CONNREFUSED),
                false => Ok(()),
            };
            assert_eq!((reached, sent), (wanted, wanted), "{spelling}");
            if kind == libc::SOCK_DGRAM && sent.is_ok() {
                logs[1].recv(&mut [0]).unwrap();
            }
        }
        let delegates = wire.snapshot().delegates;
        let path = format!("{at}/{name}");
        let rows: Vec<_> = delegates.iter().filter(|row| row.path == path).collect();
        let each = if kind == libc::SOCK_DGRAM { 2 } else { 1 };
        let [row] = rows[..] else {
            panic!("one row of {path}: {delegates:?}")
        };
        assert_eq!(row.attempts, each * spellings.len() as u64);
        let denied = row.verdict == Verdict::Deny;
        assert_eq!(denied, name.starts_with("denied"));
    }
}

/// However deep it is: what is kept of a path has an end, what is judged has not.
#[test]
fn a_deep_working_directory_hides_nothing() {
    let place = Place::new();
    let at = place.path().display().to_string();
    let wire = Wire::delegating(&format!(
        "default: allow\nrules:\n  - deny: unix:{at}/**/denied\n"
    ));
    let _near = UnixListener::bind("denied").unwrap();
    let mut depth = 0;
    for length in [20, 50, 90] {
        let name = "d".repeat(length);
        fs::create_dir(&name).unwrap();
        std::env::set_current_dir(&name).unwrap();
        depth += 1;
        let _here = ["denied", "open"].map(|name| UnixListener::bind(name).unwrap());
        let above = "../".repeat(depth);
        for (path, denied) in [
            ("denied".to_owned(), true),
            ("open".to_owned(), false),
            (format!("{above}denied"), true),
        ] {
            let to = SocketAddrUnix::new(&path).unwrap();
            let reached = rustix::net::connect(wire.unix(libc::SOCK_STREAM), &to);
            assert_eq!(reached.is_err(), denied, "{length}: {path} {reached:?}");
        }
    }
}

/// Other links are not followed by the programs: who follows them is found afterwards, if at all.
#[test]
fn a_link_is_another_path() {
    let place = Place::new();
    let at = place.path().display().to_string();
    let wire = Wire::delegating(&format!(
        "default: allow\nrules:\n  - deny: unix:{at}/denied\n"
    ));
    let _there = UnixListener::bind("denied").unwrap();
    symlink("denied", "link").unwrap();
    let to = SocketAddrUnix::new("link").unwrap();
    rustix::net::connect(wire.unix(libc::SOCK_STREAM), &to).unwrap();
    let delegates = wire.snapshot().delegates;
    assert_eq!(delegates[0].path, format!("{at}/link"));
}
