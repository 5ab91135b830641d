//! What the facts about a host mean: a pure function from [`Support`] to lines.

mod line;

use std::path::Path;

use blackstart_guard::Feature;
use blackstart_guard::support::{Capabilities, Cgroup2, Lockdown, Support};

use crate::plain::plain;

use line::{ADDRESSES, Bearing, NAMES};
pub(crate) use line::{Fitness, Line, document, human};

const NEWER_KERNEL: &str =
    "use a newer kernel; 6.1 has everything but the unix socket hooks, 6.7 has those";

/// Every fact, in the order in which they are worth mending.
pub(crate) fn lines(host: &Support) -> Vec<Line> {
    let mut lines = vec![
        privilege(host),
        Line::good(
            "kernel",
            format!("{} on {}", plain(&host.release), plain(&host.arch)),
            "each feature is tried, not guessed from this",
        ),
        types(host),
        lockdown(host),
        cgroup2(host),
    ];
    lines.extend(programs(host));
    lines.push(birth(host));
    lines.push(closed_families(host));
    lines.push(contained(host));
    lines.push(kill(host));
    lines.push(bpffs(host));
    lines.push(systemd(host));
    lines.extend(resolving(host));
    lines.push(locked_memory(host));
    lines.push(unprivileged(host));
    let by_path = "none is needed; with `bpf` among them, a unix socket that is denied is refused by whatever path";
    lines.push(match &host.lsm {
        Some(list) => Line::good(
            "security modules",
            plain(&list.join(",")),
            match names_refuse(host) {
                Some(true) => "a unix socket that is denied is refused by whatever path",
                Some(false) => by_path,
                None => "a run tries to refuse unix sockets that are denied by whatever path",
            },
        ),
        None => Line::untold(
            "security modules",
            "not told; securityfs is not mounted",
            by_path,
        ),
    });
    lines
}

/// Are unix sockets refused by the names that they have? On arm64 such programs run since 6.4 only, and the loader finds out.
fn names_refuse(host: &Support) -> Option<bool> {
    match (host.calls_bpf(), host.bpf.socket_names, host.arch.as_str()) {
        (false, ..) | (_, Some(false), _) => Some(false),
        (true, _, "aarch64") => None,
        (true, known, _) => known,
    }
}

fn privilege(host: &Support) -> Line {
    let Some(has) = host.capabilities else {
        return Line::untold(
            "privilege",
            "/proc/self/status cannot be read",
            "a run tries, and says what was refused",
        );
    };
    let who = if host.euid == 0 {
        "root".to_owned()
    } else {
        format!("user id {}", host.euid)
    };
    match host.may_load() {
        Some(false) => Line::fatal(
            "privilege",
            format!("{who} without {}", missing(has)),
            if host.euid == 0 {
                "give the container or unit CAP_SYS_ADMIN, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            } else {
                "run it with sudo"
            },
        ),
        _ if !has.net_raw => Line::bad(
            "privilege",
            format!("{who} without CAP_NET_RAW"),
            (Bearing::Whole, "programs can be loaded and attached"),
            (
                Bearing::Gap,
                "a refused lookup ends by the resolver's own patience, not at once",
            ),
            "add CAP_NET_RAW",
        ),
        _ => Line::good(
            "privilege",
            format!("{who} with the capabilities"),
            "programs can be loaded and attached",
        ),
    }
}

fn missing(has: Capabilities) -> String {
    [
        (has.bpf, "CAP_BPF"),
        (has.net_admin, "CAP_NET_ADMIN"),
        (has.perfmon, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect::<Vec<_>>()
    .join(", ")
}

fn types(host: &Support) -> Line {
    match host.btf {
        Some(true) => Line::good(
            "kernel types",
            "/sys/kernel/btf/vmlinux is there",
            "one binary fits this kernel",
        ),
        Some(false) => Line::fatal(
            "kernel types",
            "no /sys/kernel/btf/vmlinux",
            "mount sysfs on /sys, or use a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        None => Line::untold(
            "kernel types",
            "/sys/kernel/btf cannot be looked into",
            "a run tries",
        ),
    }
}

fn lockdown(host: &Support) -> Line {
    match host.lockdown {
        Some(Lockdown::Confidentiality) => Line::fatal(
            "lockdown",
            "confidentiality: programs may not read kernel memory",
            "boot with lockdown=integrity, or none",
        ),
        Some(Lockdown::Integrity) => {
            Line::good("lockdown", "integrity", "does not touch what is needed")
        }
        Some(Lockdown::Off) => Line::good("lockdown", "off", "nothing is withheld"),
        None => Line::untold(
            "lockdown",
            "not told; the kernel lacks it or securityfs is not mounted",
            "a run tries",
        ),
    }
}

fn cgroup2(host: &Support) -> Line {
    match &host.cgroup2 {
        Cgroup2::Unknown => {
            Line::untold("cgroup2", "the mount table cannot be read", "a run tries")
        }
        Cgroup2::Absent => Line::fatal(
            "cgroup2",
            "not mounted",
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        Cgroup2::Mounted(mount) if mount.read_only => Line::fatal(
            "cgroup2",
            format!("{} is read-only", shown(&mount.path)),
            "in a container: share the host's cgroup tree writable, or run Blackstart outside and the container inside",
        ),
        Cgroup2::Mounted(mount) => {
            let kind = if mount.hybrid { "hybrid" } else { "unified" };
            let controllers = match &mount.controllers {
                Some(list) if list.is_empty() => "no controllers".to_owned(),
                Some(list) => plain(
                    &list
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(" "),
                ),
                None => "controllers not told".to_owned(),
            };
            Line::good(
                "cgroup2",
                format!("{}, {kind}, {controllers}", shown(&mount.path)),
                "a run gets a cgroup of its own",
            )
        }
    }
}

fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// No beats unknown, unknown beats yes.
fn all<const N: usize>(told: [Option<bool>; N]) -> Option<bool> {
    if told.contains(&Some(false)) {
        return Some(false);
    }
    told.iter().all(Option::is_some).then_some(true)
}

/// One line for each thing that the kernel's `bpf()` was asked for.
fn programs(host: &Support) -> Vec<Line> {
    use Bearing::{Gap, Impossible};
    let bpf = &host.bpf;
    let unguarded = (
        Impossible,
        "the command runs unguarded, and the report says so",
    );
    let outcomes = (Gap, "connected, refused and timed out are not told apart");
    let recorded = (Gap, "contacts with daemons are recorded once they are over");
    let refused = match names_refuse(host) {
        Some(true) => (
            Gap,
            "the same, and what a `unix:` rule denies is refused by its name",
        ),
        _ => (
            Gap,
            "contacts with daemons are recorded, and not refused: a `unix:` rule that is enforced needs --hide-sockets",
        ),
    };
    let asked = [
        (
            "maps",
            bpf.ring_buffer,
            "ring buffers",
            "the record is kept in the kernel",
            unguarded,
            (Impossible, "exit 125, nothing runs"),
        ),
        (
            NAMES,
            all([bpf.cgroup_skb, bpf.bounded_loop]),
            Feature::Names.stands_on(),
            "lookups and answers are seen and judged",
            (Gap, "lookups are not seen, only addresses"),
            (Impossible, "exit 125, unless --accept-gap names"),
        ),
        (
            ADDRESSES,
            all([bpf.connect, bpf.sendmsg, bpf.set_retval]),
            Feature::Addresses.stands_on(),
            "attempts are seen and judged before they leave",
            (Gap, "attempts are not seen, only lookups"),
            (Impossible, "exit 125, unless --accept-gap addresses"),
        ),
        (
            "processes",
            bpf.tracing,
            Feature::Processes.stands_on(),
            "every process is known by its arguments and ancestry",
            (Gap, "processes are not known"),
            (
                Impossible,
                "exit 125, unless --accept-gap processes and leavers",
            ),
        ),
        (
            "kinds of sockets",
            bpf.sock_create,
            Feature::SocketKinds.stands_on(),
            "raw, ping and SCTP sockets have a process; `default: deny` refuses them",
            (Gap, "what raw, ping and SCTP sockets send has no process"),
            (
                Gap,
                "the same, and `default: deny` is exit 125, unless --accept-gap unseen_families",
            ),
        ),
        (
            "outcomes",
            bpf.sock_release,
            Feature::Outcomes.stands_on(),
            "connected, refused and timed out are told apart",
            outcomes,
            outcomes,
        ),
        (
            "unix sockets",
            bpf.connect_unix,
            Feature::UnixSockets.stands_on(),
            "contact with daemons that act for the run is seen",
            recorded,
            refused,
        ),
        (
            "claims",
            match (bpf.sock_ops, bpf.sk_msg) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Feature::Claims.stands_on(),
            "names that connections give (TLS, HTTP, proxies) are judged",
            (
                Gap,
                "where one address serves several names, the lookup alone decides",
            ),
            (
                Impossible,
                "exit 125 where a name is denied, unless --accept-gap claims",
            ),
        ),
    ];
    asked
        .into_iter()
        .map(|(fact, told, what, means, observe, enforce)| match told {
            Some(true) => Line::good(fact, format!("{what}: there"), means),
            Some(false) => Line::bad(
                fact,
                format!("{what}: not in this kernel"),
                observe,
                enforce,
                NEWER_KERNEL,
            ),
            None if host.may_load() == Some(false) => Line::untold(
                fact,
                format!("{what}: cannot be asked without the privilege"),
                means,
            ),
            None => Line::untold(
                fact,
                format!("{what}: the kernel gave no clear answer"),
                "a run tries",
            ),
        })
        .collect()
}

fn birth(host: &Support) -> Line {
    let fact = "birth in a cgroup";
    match host.clone_into_cgroup {
        Some(true) => Line::good(
            fact,
            "clone3 takes CLONE_INTO_CGROUP",
            "the command is guarded from its first instruction",
        ),
        Some(false) => Line::fatal(
            fact,
            "clone3 does not take CLONE_INTO_CGROUP",
            "use a kernel from 5.7 on; in a container, a seccomp profile that lets clone3 pass",
        ),
        None => Line::untold(fact, "clone3 gave no clear answer", "a run tries"),
    }
}

/// What a seccomp filter is for.
fn closed_families(host: &Support) -> Line {
    let fact = "system calls";
    let able = host.capabilities.map(|has| has.sys_admin);
    match all([host.seccomp, able]) {
        Some(true) => Line::good(
            fact,
            "seccomp filters can be set",
            "`default: deny` refuses packet and vsock sockets, and io_uring",
        ),
        Some(false) => Line::bad(
            fact,
            if host.seccomp == Some(false) {
                "the kernel filters none"
            } else {
                "filtering them takes CAP_SYS_ADMIN"
            },
            (
                Bearing::Whole,
                "packet and vsock sockets are out of sight in any case",
            ),
            (
                Bearing::Gap,
                "`default: deny` is exit 125, unless --accept-gap unseen_families",
            ),
            if host.seccomp == Some(false) {
                "use a kernel built with CONFIG_SECCOMP_FILTER"
            } else {
                "add CAP_SYS_ADMIN"
            },
        ),
        None => Line::untold(
            fact,
            "whether they can be filtered is not told",
            "a run tries",
        ),
    }
}

fn contained(host: &Support) -> Line {
    let fact = "containment";
    let able = host.capabilities.map(|has| has.sys_admin);
    match all([host.namespaces, able]) {
        Some(true) => Line::good(
            fact,
            "namespaces of processes, mounts and cgroups",
            "--contain, and so `default: deny`, keeps root inside from undoing its guard",
        ),
        Some(false) => Line::bad(
            fact,
            if host.namespaces == Some(false) {
                "the kernel lacks namespaces"
            } else {
                "namespaces take CAP_SYS_ADMIN"
            },
            (Bearing::Whole, "nothing is contained unless asked for"),
            (
                Bearing::Gap,
                "`default: deny` is exit 125, unless --no-contain",
            ),
            if host.namespaces == Some(false) {
                "use a kernel with namespaces"
            } else {
                "add CAP_SYS_ADMIN"
            },
        ),
        None => Line::untold(fact, "namespaces are not told", "a run tries"),
    }
}

fn kill(host: &Support) -> Line {
    let fact = "cgroup.kill";
    let told = match &host.cgroup2 {
        Cgroup2::Mounted(mount) => mount.kill,
        Cgroup2::Unknown | Cgroup2::Absent => None,
    };
    match told {
        Some(true) => Line::good(fact, "there", "--leftover kill ends all at once"),
        Some(false) => {
            let slower = (
                Bearing::Gap,
                "--leftover kill signals one process after the other",
            );
            Line::bad(
                fact,
                "not in this kernel",
                slower,
                slower,
                "use a kernel from 5.14 on",
            )
        }
        None => Line::untold(fact, "no cgroup but the root to look at", "a run tries"),
    }
}

fn bpffs(host: &Support) -> Line {
    match &host.bpffs {
        Some(Some(path)) => Line::good(
            "bpffs",
            shown(path),
            "a run stays guarded if its supervisor is killed",
        ),
        Some(None) if host.capabilities.is_none_or(|has| has.sys_admin) => {
            Line::good("bpffs", "not mounted", "a run mounts one of its own")
        }
        Some(None) => Line::bad(
            "bpffs",
            "not mounted, and mounting one takes CAP_SYS_ADMIN",
            (
                Bearing::Gap,
                "a run is no longer seen if its supervisor is killed",
            ),
            (Bearing::Impossible, "exit 125, unless --accept-gap pins"),
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        None => Line::untold("bpffs", "the mount table cannot be read", "a run tries"),
    }
}

fn systemd(host: &Support) -> Line {
    match (host.systemd, host.systemd_answers) {
        (Some(true), Some(true)) => Line::good(
            "systemd",
            "PID 1, and answers",
            "a run is a scope of its own",
        ),
        (Some(true), Some(false)) => {
            let own = (
                Bearing::Whole,
                "a run makes its cgroup without systemd, after waiting half a second",
            );
            Line::bad(
                "systemd",
                "PID 1, and its bus does not answer",
                own,
                own,
                "look at systemctl status",
            )
        }
        (Some(true), None) => Line::untold(
            "systemd",
            "PID 1; its bus could not be asked",
            "a run tries",
        ),
        (Some(false), _) => Line::good("systemd", "not PID 1", "a run makes its cgroup itself"),
        (None, _) => Line::untold(
            "systemd",
            "/run/systemd cannot be looked into",
            "a run tries",
        ),
    }
}

/// Kernels before 5.11 charge maps to the limit of locked memory, later ones to the cgroup.
fn locked_memory(host: &Support) -> Line {
    let is = match host.locked_memory {
        u64::MAX => "no limit".to_owned(),
        bytes => format!("limit of {} KiB", bytes >> 10),
    };
    let charged = version(&host.release).is_some_and(|version| version < (5, 11));
    let raisable = host.capabilities.is_none_or(|has| has.sys_resource);
    if charged && !raisable && host.locked_memory < MAPS {
        let refused = (Bearing::Impossible, "the kernel refuses the maps of a run");
        Line::bad("locked memory", is, refused, refused, "ulimit -l unlimited")
    } else if charged {
        Line::good("locked memory", is, "enough, or raised by a run")
    } else {
        Line::good(
            "locked memory",
            is,
            "this kernel does not charge a run's maps to it",
        )
    }
}

/// Kernel memory of a loaded run's maps, at most.
const MAPS: u64 = 64 << 20;

/// The first two numbers of a release. Only for what cannot be tried.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn unprivileged(host: &Support) -> Line {
    let fact = "unprivileged bpf";
    match host.unprivileged_bpf_disabled {
        Some(0) => Line::good(
            fact,
            "any user may load programs",
            "not needed; most hosts forbid it",
        ),
        Some(_) => Line::good(fact, "forbidden", "not needed"),
        None => Line::untold(fact, "not told", "not needed"),
    }
}

fn resolving(host: &Support) -> Vec<Line> {
    let list = |servers: &[std::net::IpAddr]| {
        servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let servers = match &host.resolvers {
        None => Line::untold(
            "name servers",
            "/etc/resolv.conf cannot be read",
            "lookups are seen all the same",
        ),
        Some(servers) if servers.is_empty() => Line::good(
            "name servers",
            "none in /etc/resolv.conf",
            "the resolver then asks loopback",
        ),
        Some(servers) if host.stub_resolver() == Some(true) => Line::good(
            "name servers",
            format!("{}, a stub on this host", list(servers)),
            "lookups to the stub are seen; what it asks in turn is not the run's",
        ),
        Some(servers) => Line::good("name servers", list(servers), "lookups to them are seen"),
    };
    let daemons = match (host.nscd, host.resolved) {
        (false, false) => Line::good(
            "name daemons",
            "neither nscd nor systemd-resolved",
            "every lookup is a packet of the run",
        ),
        (nscd, resolved) => {
            let who = [(nscd, "nscd"), (resolved, "systemd-resolved")];
            let who = who
                .into_iter()
                .filter_map(|(there, name)| there.then_some(name))
                .collect::<Vec<_>>()
                .join(" and ");
            if host.bpf.connect_unix == Some(false) && names_refuse(host) != Some(true) {
                Line::bad(
                    "name daemons",
                    format!("{who} listens"),
                    (Bearing::Gap, "lookups through its socket are not seen"),
                    (
                        Bearing::Impossible,
                        "exit 125, unless --hide-sockets or --accept-gap resolver_sockets",
                    ),
                    "use --hide-sockets, or a kernel from 6.7 on or with `bpf` among its LSMs, or stop the daemon for the run",
                )
            } else {
                Line::good(
                    "name daemons",
                    format!("{who} listens"),
                    "its socket is refused inside a run, so that lookups fall back to DNS, which is seen",
                )
            }
        }
    };
    vec![servers, daemons]
}

#[cfg(test)]
mod tests;
