//! Contacts with unix sockets on kernels that have no hooks for them: what system calls tell once they are over.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use blackstart_core::record::Verdict;

use super::command::{ended, started};
use super::wire::Wire;

/// Run a script of Python's in the run's cgroup; its code.
fn python(wire: &Wire, script: &str, directory: &Path) -> Option<i32> {
    let script = format!(
        "import socket, os, ctypes\nos.chdir({:?})\n{script}",
        directory.display().to_string()
    );
    ended(&started(wire.cgroup(), ["/usr/bin/python3", "-c", &script]))
}

/// What was reached for: path, verdict, and how often by processes that are known.
fn contacts(wire: &Wire) -> BTreeMap<(String, Verdict), u64> {
    let mut met = BTreeMap::new();
    let rows = wire.session.contacts(&mut |row| {
        assert!(row.subject != 0, "{row:?}");
        // libc looks for it before it looks anything up.
        if row.path == "/run/nscd/socket" {
            return;
        }
        *met.entry((row.path, row.verdict)).or_default() += row.attempts;
    });
    rows.unwrap();
    met
}

#[test]
fn every_way_to_reach_a_unix_socket_is_recorded_and_nobody_else_s() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _stream = UnixListener::bind(at("stream")).unwrap();
    let name = format!("blackstart-test-{}", std::process::id());
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    let stream = at("stream").display().to_string();
    let datagrams = at("datagrams").display().to_string();
    let wire = Wire::meeting("rules: []\n");
    // Such names are a network namespace's.
    let _abstract =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let script = format!(
        "def reach(path): socket.socket(socket.AF_UNIX).connect(path)\n\
         reach({stream:?}); reach('stream'); reach('\\0{name}')\n\
         try: reach('nobody')\n\
         except FileNotFoundError: pass\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         s.sendto(b'x', {datagrams:?}); s.sendmsg([b'x'], [], 0, {datagrams:?})\n\
         # Two messages in one call.\n\
         address = b'\\x01\\0' + {datagrams:?}.encode() + b'\\0'\n\
         address = ctypes.create_string_buffer(address, len(address))\n\
         class Message(ctypes.Structure):\n  \
           _fields_ = [('name', ctypes.c_void_p), ('length', ctypes.c_uint64), ('rest', ctypes.c_uint64 * 5), ('sent', ctypes.c_uint64)]\n\
         of = Message(ctypes.addressof(address), len(address))\n\
         sent = ctypes.CDLL(None).sendmmsg(s.fileno(), (Message * 2)(of, of), 2, 0)\n\
         s.connect({datagrams:?}); s.send(b'x')\n\
         # No contact with anybody outside, and no unix socket.\n\
         ours, its = socket.socketpair(); ours.send(b'x')\n\
         socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\n\
         raise SystemExit(sent)\n"
    );
    assert_eq!(python(&wire, &script, dir.path()), Some(2));
    UnixStream::connect(at("stream")).unwrap();
    let met = contacts(&wire);
    // What is relative is told from the root.
    let expected = [
        (stream, 2),
        (format!("@{name}"), 1),
        (at("nobody").display().to_string(), 1),
        (datagrams, 5),
    ];
    let expected = expected.map(|(path, times)| ((path, Verdict::Allow), times));
    assert_eq!(met, BTreeMap::from(expected));
}

#[test]
fn what_cannot_be_refused_is_said_to_be_refused_only_if_it_was_out_of_sight_and_not_reached() {
    let dir = tempfile::tempdir().unwrap();
    let denied = dir.path().join("denied");
    let _daemon = UnixListener::bind(&denied).unwrap();
    let denied = denied.display().to_string();
    let nobody = format!("{denied}-too");
    let rules = format!("rules:\n  - deny: unix:{denied}\n  - deny: unix:{nobody}\n");
    let reach = format!(
        "for path in ({denied:?}, {nobody:?}):\n  \
           try: socket.socket(socket.AF_UNIX).connect(path)\n  \
           except OSError: pass\n"
    );
    let told = |hides: bool| {
        let mut wire = Wire::meeting(&rules);
        if hides {
            wire.session.hide_sockets();
        }
        assert_eq!(python(&wire, &reach, dir.path()), Some(0));
        contacts(&wire)
            .into_keys()
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect::<Vec<_>>()
    };
    assert_eq!(told(false), [Verdict::WouldDeny, Verdict::WouldDeny]);
    assert_eq!(told(true), [Verdict::WouldDeny, Verdict::Deny]);
}
