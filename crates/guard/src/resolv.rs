//! What this run's resolvers go by: resolv.conf, /etc/hosts, and the host's own addresses, as a process
//! started from here sees them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        let hosts = hosts(&text("/etc/hosts").unwrap_or_default());
        let mut own = fib_trie(&text("/proc/net/fib_trie").unwrap_or_default());
        own.extend(if_inet6(&text("/proc/net/if_inet6").unwrap_or_default()));
        own.retain(|address| !address.is_loopback());
        own.sort_unstable();
        own.dedup();
        Self {
            servers,
            search,
            hosts,
            own,
        }
    }
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
