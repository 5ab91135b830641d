//! What this run's resolvers go by: resolv.conf, /etc/hosts, and the host's own addresses, as a process
//! started from here sees them, or as processes see them that are there already.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// Processes whose view is asked for: those of one cgroup nearly all have the same.
const VIEWS: usize = 256;
/// No more of a file is read.
const MOST: u64 = 16 << 20;

/// The facts that a policy is compiled with, and the tables are filled with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolving {
    /// Name servers.
    pub(crate) servers: Vec<IpAddr>,
    /// Search list.
    pub(crate) search: Vec<String>,
    /// Names with a fixed address.
    pub(crate) hosts: Vec<(String, IpAddr)>,
    /// Addresses of this network namespace, loopback aside.
    pub(crate) own: Vec<IpAddr>,
}

impl Resolving {
    /// Read them. A file that is not there or not readable says nothing, as it does to a resolver.
    pub(crate) fn read() -> Self {
        // Such files may hold bytes of any encoding in their comments.
        let text =
            |path: &str| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (servers, search) = resolv_conf(&text("/etc/resolv.conf").unwrap_or_default());
        Self {
            servers,
            search,
            hosts: hosts(&text("/etc/hosts").unwrap_or_default()),
            own: own_addresses("/proc"),
        }
    }

    /// As a process of whoever asked for a guard sees them; as it is here, if that has a user namespace of its own: there
    /// anybody may name any server, and a guardrail is not to believe it.
    pub(crate) fn of_caller(pid: i32) -> Self {
        let own = rustix::process::getpid().as_raw_pid();
        let users: BTreeSet<_> = namespace(own, "user").into_iter().collect();
        Self::of(&[pid], &users)
    }

    /// As these processes see them, all together: files in each mount namespace, addresses in each network namespace.
    /// Where there is no process to ask, as it is here.
    fn of(pids: &[i32], users: &BTreeSet<PathBuf>) -> Self {
        let (mut mounts, mut networks) = (BTreeSet::new(), BTreeSet::new());
        let mut all = Self::default();
        let mut seen = false;
        let known = |pid: &&i32| namespace(**pid, "user").is_none_or(|user| users.contains(&user));
        for pid in pids.iter().filter(known).take(VIEWS) {
            // A process may have a root of its own in the same namespace (chroot).
            let view = namespace(*pid, "mnt").zip(fs::read_link(format!("/proc/{pid}/root")).ok());
            if let Some(view) = view
                && mounts.insert(view)
            {
                let (servers, search) = resolv_conf(&text_of(*pid, "etc/resolv.conf"));
                seen = true;
                add(&mut all.servers, servers);
                add(&mut all.search, search);
                add(&mut all.hosts, hosts(&text_of(*pid, "etc/hosts")));
            }
            if let Some(network) = namespace(*pid, "net")
                && networks.insert(network)
            {
                add(&mut all.own, own_addresses(&format!("/proc/{pid}")));
            }
        }
        if seen { all } else { Self::read() }
    }
}

/// Reads what processes see, in a thread: a file of theirs may lie on a server that does not answer, and whoever guards
/// them is not to wait for that.
///
/// Only processes count whose user namespace was there at the first look. In one of its own anybody may mount a resolv.conf
/// and give an interface any address: a guard that believed it would take the server named there for a resolver, and
/// what is reached at that address for this host.
pub(crate) struct Views {
    ask: Sender<Vec<i32>>,
    answers: Receiver<Resolving>,
    asked: Option<Instant>,
    late: bool,
}

impl Views {
    /// For the processes of one cgroup.
    pub(crate) fn new() -> io::Result<Self> {
        let mut users = BTreeSet::new();
        Self::through(move |pids| {
            if users.is_empty() {
                users = pids
                    .iter()
                    .filter_map(|pid| namespace(*pid, "user"))
                    .collect();
            }
            Resolving::of(pids, &users)
        })
    }

    fn through(mut read: impl FnMut(&[i32]) -> Resolving + Send + 'static) -> io::Result<Self> {
        let (ask, asked) = channel::<Vec<i32>>();
        let (tell, answers) = channel();
        thread::Builder::new()
            .name("resolv.conf".to_owned())
            .spawn(move || {
                for pids in asked {
                    if tell.send(read(&pids)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            ask,
            answers,
            asked: None,
            late: false,
        })
    }

    /// What these see now, unless that takes longer than this.
    pub(crate) fn within(&mut self, patience: Duration, pids: Vec<i32>) -> Option<Resolving> {
        self.look(pids);
        let answer = self.answers.recv_timeout(patience).ok()?;
        self.asked = None;
        Some(answer)
    }

    /// Begin to look, unless that goes on already.
    pub(crate) fn look(&mut self, pids: Vec<i32>) {
        if self.asked.is_none() && self.ask.send(pids).is_ok() {
            self.asked = Some(Instant::now());
        }
    }

    /// What was seen, once.
    pub(crate) fn seen(&mut self) -> Option<Resolving> {
        let seen = self.answers.try_recv().ok()?;
        (self.asked, self.late) = (None, false);
        Some(seen)
    }

    /// Does it take longer than this? Said once.
    pub(crate) fn is_late(&mut self, patience: Duration) -> bool {
        let late = self.asked.is_some_and(|asked| asked.elapsed() > patience);
        late && !std::mem::replace(&mut self.late, late)
    }
}

/// What is not there yet; the order stays.
fn add<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) {
    if known.is_empty() {
        *known = more;
        return;
    }
    for one in more {
        if !known.contains(&one) {
            known.push(one);
        }
    }
}

fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// A file as a process sees it. Its links lead nowhere else than to what it sees itself, and whatever waits for a
/// reader (a pipe in the file's place) is not read.
fn text_of(pid: i32, path: &str) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let root = open(
            format!("/proc/{pid}/root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut octets = Vec::new();
        file.take(MOST).read_to_end(&mut octets)?;
        Ok(octets)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Addresses of the network namespace of whoever has this directory in /proc, loopback aside.
fn own_addresses(process: &str) -> Vec<IpAddr> {
    let text = |file: &str| fs::read_to_string(format!("{process}/net/{file}")).unwrap_or_default();
    let mut own = fib_trie(&text("fib_trie"));
    own.extend(if_inet6(&text("if_inet6")));
    own.retain(|address| !address.is_loopback());
    own.sort_unstable();
    own.dedup();
    own
}

/// Name servers and search list of a resolv.conf. Without a name server resolvers ask this host.
fn resolv_conf(text: &str) -> (Vec<IpAddr>, Vec<String>) {
    let mut servers = Vec::new();
    let mut search = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // A zone (`fe80::1%eth0`) says through which link, and is no part of the address.
            Some("nameserver") => {
                let address: Option<IpAddr> = words
                    .next()
                    .and_then(|word| word.split('%').next()?.parse().ok());
                servers.extend(address);
            }
            // The last one counts, whichever of the two it is.
            Some("search") => search = words.map(domain).collect(),
            Some("domain") => search = words.take(1).map(domain).collect(),
            _ => {}
        }
    }
    search.retain(|domain: &String| !domain.is_empty());
    if servers.is_empty() {
        servers = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    (servers, search)
}

fn domain(text: &str) -> String {
    text.trim_end_matches('.').to_ascii_lowercase()
}

/// Names and addresses of a hosts file.
fn hosts(text: &str) -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words
            .next()
            .and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok())
        else {
            continue;
        };
        // How lists of unwanted names are kept from resolving: nothing can be reached there.
        if address.is_unspecified() {
            continue;
        }
        found.extend(words.map(|name| (domain(name), address)));
    }
    found
}

/// Own IPv4 addresses, out of the kernel's routing table for local delivery.
fn fib_trie(text: &str) -> Vec<IpAddr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.map(IpAddr::from));
        }
    }
    found
}

/// Own IPv6 addresses.
fn if_inet6(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line
            .split_ascii_whitespace()
            .next()
            .filter(|digits| digits.len() == 32)?;
        Some(IpAddr::from(Ipv6Addr::from(
            u128::from_str_radix(digits, 16).ok()?,
        )))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_waits_for_a_file_that_does_not_answer() {
        let (server, answers) = channel::<()>();
        let mut views = Views::through(move |pids| {
            let _gone = answers.recv();
            Resolving {
                search: vec![pids.len().to_string()],
                ..Resolving::default()
            }
        })
        .unwrap();
        assert_eq!(views.within(Duration::from_millis(1), vec![1]), None);
        assert_eq!(views.seen(), None);
        assert!(!views.is_late(Duration::from_secs(600)));
        assert!(views.is_late(Duration::ZERO) && !views.is_late(Duration::ZERO));
        // It is asked once.
        views.look(vec![1, 2]);
        drop(server);
        let seen = views.answers.recv().unwrap();
        assert_eq!(seen.search, ["1"]);
        views.asked = None;
        let seen = views.within(Duration::from_secs(60), vec![1, 2]).unwrap();
        assert_eq!(seen.search, ["2"]);
    }

    #[test]
    fn resolv_conf_is_read_as_resolvers_read_it() {
        let text = "# comment\nnameserver 10.0.0.53\n nameserver\tfe80::1%eth0 \ndomain old.example\n\
                    search Corp.Example. a.example\noptions ndots:5\nnameserver nonsense\n;nameserver 9.9.9.9\n";
        let (servers, search) = resolv_conf(text);
        assert_eq!(servers, [ip("10.0.0.53"), ip("fe80::1")]);
        assert_eq!(search, ["corp.example", "a.example"]);
        assert_eq!(
            resolv_conf("search a.example\ndomain b.example c.example\n").1,
            ["b.example"]
        );
        assert_eq!(resolv_conf("").0, [ip("127.0.0.1"), ip("::1")]);
        assert!(resolv_conf("search .\n").1.is_empty());
    }

    #[test]
    fn hosts_files_give_each_alias() {
        let text = "127.0.0.1 localhost\n10.1.1.1\tdb.internal DB # the database\n# 1.1.1.1 x\nnonsense y\n::1 localhost\n\
                    0.0.0.0 tracker.example\n:: tracker.example\n";
        let expected = [
            ("localhost", ip("127.0.0.1")),
            ("db.internal", ip("10.1.1.1")),
            ("db", ip("10.1.1.1")),
            ("localhost", ip("::1")),
        ];
        assert_eq!(
            hosts(text),
            expected.map(|(name, address)| (name.to_owned(), address))
        );
    }

    #[test]
    fn own_addresses_are_read_from_the_kernel_tables() {
        let trie = "\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.2.0/24 2 0 2
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.2.255
           /32 link BROADCAST
";
        assert_eq!(fib_trie(trie), [ip("10.1.2.3")]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                  fd000000000000000000000000000005 02 40 00 80     eth0\nshort 1\n";
        assert_eq!(if_inet6(v6), [ip("::1"), ip("fd00::5")]);
    }
}
