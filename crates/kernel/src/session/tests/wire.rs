//! The bench that the tests stand on: a run's programs attached to a cgroup of the test's own, sockets born in
//! that cgroup, and a server outside of it that says whatever the test wants it to say.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blackstart_core::policy;
use blackstart_core::record::{AnswerRow, Counters, QueryRow, Snapshot};
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, Tables, compile};
use libbpf_rs::{MapCore, MapFlags};
use rustix::process::{PidfdGetfdFlags, Signal, WaitId, WaitIdOptions};

use super::message::Message;
use crate::Tracer;
use crate::abi;
use crate::session::{Feature, Listening, Session, Settings};
use crate::spawn::clone_child;
use crate::support::Support;

/// Where the server waits, for each family.
pub(super) const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// No rule at all.
pub(super) const ALLOW_ALL: &str = "default: allow\n";

/// A message that the programs let pass whatever they are told to do: a query on its way *in*. The server
/// sends it behind each answer, so that "nothing came" needs no waiting.
const MARK: [u8; 17] = [0; 17];

/// A run's programs on the wire.
pub(super) struct Wire {
    pub(super) session: Session,
    cgroup: File,
    path: PathBuf,
    servers: [UdpSocket; 2],
}

/// What the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    Answer,
    Nothing,
}

impl Wire {
    /// Under this policy (YAML below `kind: Policy`), in enforce mode, with a supervisor that lives.
    pub(super) fn enforce(rules: &str) -> Self {
        let mut wire = Self::observe(rules);
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire.session.heartbeat().unwrap();
        wire
    }

    /// The same in observe mode.
    pub(super) fn observe(rules: &str) -> Self {
        Self::searching(rules, &[])
    }

    /// In observe mode, on a host whose resolv.conf has this search list.
    pub(super) fn searching(rules: &str, search: &[&str]) -> Self {
        Self::with(rules, search, || None, |_| {})
    }

    /// As what is attached to is judged, in enforce mode.
    pub(super) fn attached(rules: &str) -> Self {
        let mut wire = Self::with(rules, &[], || None, Tables::end_leases);
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire
    }

    /// In observe mode, with lookups over TCP turned to where `forwarder` says. That is asked in the network namespace
    /// that this thread has from then on.
    pub(super) fn forwarding(rules: &str, forwarder: impl FnOnce() -> Option<Listening>) -> Self {
        Self::with(rules, &[], forwarder, |_| {})
    }

    /// In enforce mode, with processes followed too.
    pub(super) fn following(rules: &str) -> Self {
        let also = [Feature::Processes];
        let mut wire = Self::of(rules, &[], || None, &also, None, |_| {});
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire.session.heartbeat().unwrap();
        wire
    }

    /// In observe mode, with processes followed to wherever they go, by this tracer of many if there is one.
    pub(super) fn traced(tracer: Option<&Arc<Tracer>>) -> Self {
        let also = [Feature::Processes, Feature::Leavers];
        Self::of(ALLOW_ALL, &[], || None, &also, tracer, |_| {})
    }

    /// As an agent guards, in enforce mode, with a supervisor that lives.
    pub(super) fn hosted(rules: &str, tracer: &Arc<Tracer>) -> Self {
        let also = [Feature::Processes, Feature::Leavers, Feature::Claims];
        let mut wire = Self::of(rules, &[], || None, &also, Some(tracer), |_| {});
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire.session.heartbeat().unwrap();
        wire
    }

    /// In enforce mode, with what connections say of themselves read.
    pub(super) fn listening(rules: &str) -> Self {
        let mut wire = Self::of(rules, &[], || None, &[Feature::Claims], None, |_| {});
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire
    }

    /// In enforce mode, with unix sockets looked at.
    pub(super) fn delegating(rules: &str) -> Self {
        let mut wire = Self::of(rules, &[], || None, &[Feature::UnixSockets], None, |_| {});
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire
    }

    /// As on a kernel without hooks for unix sockets, in enforce mode: their contacts are recorded as system calls end.
    pub(super) fn meeting(rules: &str) -> Self {
        let also = [Feature::Processes, Feature::ContactCalls];
        let mut wire = Self::of(rules, &[], || None, &also, None, |_| {});
        wire.session.set_mode(Mode::Enforce).unwrap();
        wire
    }

    fn with(
        rules: &str,
        search: &[&str],
        forwarder: impl FnOnce() -> Option<Listening>,
        change: impl FnOnce(&mut Tables),
    ) -> Self {
        Self::of(rules, search, forwarder, &[], None, change)
    }

    fn of(
        rules: &str,
        search: &[&str],
        forwarder: impl FnOnce() -> Option<Listening>,
        also: &[Feature],
        tracer: Option<&Arc<Tracer>>,
        change: impl FnOnce(&mut Tables),
    ) -> Self {
        need_root();
        own_network();
        // Whether a session refuses is set by its mode; its rules would.
        let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n{rules}");
        let parsed = policy::alone(&text, "test.yaml");
        let policy = parsed.expect("a policy").policy;
        let search = search.iter().map(|name| name.parse().expect("a name"));
        let facts = Facts {
            search: search.collect(),
        };
        let mut tables = compile(&policy, &facts).unwrap();
        change(&mut tables);
        let mut features = BTreeSet::from([Feature::Names, Feature::Addresses, Feature::Outcomes]);
        features.extend(also);
        let settings = Settings {
            tables: &tables,
            rules: policy.rules.len() as u32,
            resolvers: &SERVERS,
            own_addresses: &[],
            hosts: &[],
            forwarder: forwarder(),
            one_of_many: tracer.is_some(),
            tracer,
        };
        let mut session = Session::load(&features, &settings).unwrap();
        let path = new_cgroup();
        let cgroup = File::open(&path).unwrap();
        session.attach(cgroup.as_fd()).unwrap();
        let servers = SERVERS.map(|address| UdpSocket::bind((address, 53)).unwrap());
        for server in &servers {
            patient(server);
        }
        Self {
            session,
            cgroup,
            path,
            servers,
        }
    }

    /// The run's cgroup.
    pub(super) fn cgroup(&self) -> BorrowedFd<'_> {
        self.cgroup.as_fd()
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A UDP socket of the run, connected to the server of this family.
    pub(super) fn client(&self, server: IpAddr) -> UdpSocket {
        let socket = self.unconnected(server);
        socket.connect((server, 53)).unwrap();
        socket
    }

    /// A TCP socket of the run, of the family of `peer`, not connected yet.
    pub(super) fn stream(&self, peer: IpAddr) -> OwnedFd {
        born_in(self.cgroup.as_fd(), family(peer), libc::SOCK_STREAM)
    }

    /// A unix socket of the run.
    pub(super) fn unix(&self, kind: i32) -> OwnedFd {
        born_in(self.cgroup.as_fd(), libc::AF_UNIX, kind)
    }

    /// A UDP socket of the run, of the family of `peer`.
    pub(super) fn unconnected(&self, peer: IpAddr) -> UdpSocket {
        let socket = UdpSocket::from(born_in(self.cgroup.as_fd(), family(peer), libc::SOCK_DGRAM));
        patient(&socket);
        socket
    }

    /// The server of this family.
    pub(super) fn server(&self, address: IpAddr) -> &UdpSocket {
        &self.servers[usize::from(address.is_ipv6())]
    }

    /// Let the client ask, and give it this answer. `Err`: the query was refused.
    pub(super) fn exchange(
        &self,
        client: &UdpSocket,
        query: &Message,
        answer: &Message,
    ) -> io::Result<Got> {
        client.send(&query.0)?;
        let server = self.server(client.peer_addr()?.ip());
        let mut octets = [0; 4096];
        let (length, from) = server.recv_from(&mut octets)?;
        assert_eq!(octets[..length], query.0, "the query arrives as sent");
        server.send_to(&answer.0, from)?;
        server.send_to(&MARK, from)?;
        self.take(client, &answer.0)
    }

    /// What the client receives before the mark.
    pub(super) fn take(&self, client: &UdpSocket, answer: &[u8]) -> io::Result<Got> {
        let mut octets = [0; 8192];
        let length = client.recv(&mut octets)?;
        if octets[..length] == MARK {
            return Ok(Got::Nothing);
        }
        assert_eq!(octets[..length], *answer, "the answer arrives as sent");
        let length = client.recv(&mut octets)?;
        assert_eq!(octets[..length], MARK, "one answer only");
        Ok(Got::Answer)
    }

    /// Send the mark behind what the server has sent already.
    pub(super) fn mark(&self, client: &UdpSocket) {
        let server = self.server(client.peer_addr().unwrap().ip());
        server.send_to(&MARK, client.local_addr().unwrap()).unwrap();
    }

    /// Empty the table of answers, and the leases: a lease knows that its answer is in the record. What the loader knew
    /// of an address stays.
    pub(super) fn forget_answers(&self) {
        let maps = &self.session.maps;
        for key in maps.bs_answers.keys().collect::<Vec<_>>() {
            maps.bs_answers.delete(&key).unwrap();
        }
        for key in maps.bs_leases.keys().collect::<Vec<_>>() {
            let row = maps.bs_leases.lookup(&key, MapFlags::ANY).unwrap();
            let row: abi::bs_lease = row.and_then(|octets| abi::value(&octets)).unwrap();
            let unleased = abi::bs_lease {
                known: row.known,
                ..abi::zeroed()
            };
            if row.known == 0 {
                maps.bs_leases.delete(&key).unwrap();
            } else {
                maps.bs_leases
                    .update(&key, abi::octets(&unleased), MapFlags::ANY)
                    .unwrap();
            }
        }
    }

    /// What of the record there is.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.session.record.snapshot().unwrap()
    }

    /// The counters.
    pub(super) fn counters(&self) -> Counters {
        self.snapshot().counters
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Programs hold no reference to the directory; whoever was born there has ended.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Questions to a snapshot, by the text of names.
pub(super) trait Seen {
    /// The one row of lookups of this name.
    fn query(&self, name: &str) -> Option<&QueryRow>;
    /// Every address that answers gave for the name, in order.
    fn leases(&self, name: &str) -> Vec<String>;
    /// The chain behind one of them, as text.
    fn chain(&self, name: &str, address: &str) -> Vec<String>;
}

impl Seen for Snapshot {
    fn query(&self, name: &str) -> Option<&QueryRow> {
        let id = id_of(self, name)?;
        let mut rows = self.queries.iter().filter(|row| row.name == id);
        let row = rows.next();
        assert!(rows.next().is_none(), "one row of {name}");
        row
    }

    fn leases(&self, name: &str) -> Vec<String> {
        let mut addresses: Vec<IpAddr> = answers(self, name).map(|row| row.address).collect();
        addresses.sort();
        addresses.iter().map(IpAddr::to_string).collect()
    }

    fn chain(&self, name: &str, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().expect("an address");
        let row = answers(self, name)
            .find(|row| row.address == address)
            .expect("leased");
        row.chain.iter().map(|id| text_of(self, *id)).collect()
    }
}

fn id_of(snapshot: &Snapshot, name: &str) -> Option<u64> {
    Some(snapshot.names.iter().find(|row| row.name == name)?.id)
}

fn text_of(snapshot: &Snapshot, id: u64) -> String {
    let row = snapshot.names.iter().find(|row| row.id == id);
    row.expect("every id in the record has its text")
        .name
        .clone()
}

fn answers<'a>(snapshot: &'a Snapshot, name: &str) -> impl Iterator<Item = &'a AnswerRow> {
    let id = id_of(snapshot, name);
    snapshot
        .answers
        .iter()
        .filter(move |row| Some(row.name) == id)
}

/// Every test here loads programs.
pub(super) fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test loads BPF programs into the kernel and makes a cgroup and a network namespace: run it as root"
    );
}

/// Move this thread into a network namespace of its own, on one CPU: so a packet over loopback arrives within
/// the call that sends it, or behind those sent before.
pub(super) fn own_network() {
    // SAFETY: only the network namespace is left, and no descriptor depends on that.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    let mut one = rustix::thread::CpuSet::new();
    let cpus = rustix::thread::sched_getaffinity(None).unwrap();
    one.set((0..1024).find(|&cpu| cpus.is_set(cpu)).unwrap());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .expect("ip (of iproute2) is there");
    assert!(up.success(), "loopback is up");
}

/// A cgroup for one test.
fn new_cgroup() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let support = Support::probe();
    let mount = support.cgroup2_mount().expect("cgroup2 is mounted");
    let path = mount.join(format!(
        "blackstart-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir(&path).unwrap();
    path
}

fn patient(socket: &UdpSocket) {
    let most = Duration::from_secs(10);
    socket.set_read_timeout(Some(most)).unwrap();
}

fn family(of: IpAddr) -> i32 {
    match of {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

/// A socket made by a process inside the cgroup: hooks run for the cgroup in which a socket was made,
/// whoever uses it.
fn born_in(cgroup: BorrowedFd<'_>, family: i32, kind: i32) -> OwnedFd {
    let (ready, tell) = rustix::pipe::pipe().unwrap();
    let tell_fd = tell.as_raw_fd();
    let child = clone_child(Some(cgroup), 0, |joined| {
        // SAFETY: socket takes plain numbers.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
        let said = if joined { fd } else { -1 };
        // SAFETY: `said` is four octets, and the pipe is open in this copy of the process.
        unsafe { libc::write(tell_fd, (&raw const said).cast(), 4) };
        loop {
            // SAFETY: pause takes nothing; the parent ends this process.
            unsafe { libc::pause() };
        }
    })
    .unwrap();
    let mut said = [0; 4];
    loop {
        match rustix::io::read(&ready, &mut said) {
            Err(rustix::io::Errno::INTR) => {}
            read => break assert_eq!(read, Ok(4)),
        }
    }
    let fd = i32::from_ne_bytes(said);
    assert!(fd >= 0, "a socket was made inside the cgroup");
    let socket = rustix::process::pidfd_getfd(&child.pidfd, fd, PidfdGetfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    while let Err(rustix::io::Errno::INTR) =
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    {}
    socket
}

/// Set an option of a socket.
pub(super) fn option(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the value is as long as told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Was the datagram refused by a program, and by nothing else?
pub(super) fn refused<T: std::fmt::Debug>(result: &io::Result<T>) -> bool {
    match result {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            true
        }
        Ok(_) => false,
    }
}
