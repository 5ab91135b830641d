//! Facts about this host: what it has, never what follows from it.
//!
//! Every fact that can fail to be told is an `Option`: `None` means "could not be told", which is not
//! `Some(false)`. What a run makes of the facts is a plan elsewhere; `doctor` prints the same struct.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::session::Feature;
use crate::spawn::SocketFilter;

mod cgroup;
mod host;
mod programs;

/// How long systemd's socket may take to answer before it counts as silent.
const BUS_PATIENCE: Duration = Duration::from_millis(500);

/// What this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Effective user id.
    pub euid: u32,
    /// Effective capabilities of this process, as far as they matter here.
    pub capabilities: Option<Capabilities>,
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub arch: String,
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
    pub btf: Option<bool>,
    /// The cgroup2 hierarchy.
    pub cgroup2: Cgroup2,
    /// Where a bpffs is mounted. `Some(None)`: nowhere.
    pub bpffs: Option<Option<PathBuf>>,
    /// Kernel lockdown.
    pub lockdown: Option<Lockdown>,
    /// `kernel.unprivileged_bpf_disabled`: 0 allowed, 1 and 2 disabled.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Active security modules, in order.
    pub lsm: Option<Vec<String>>,
    /// What the kernel's `bpf()` takes.
    pub bpf: Bpf,
    /// `clone3(CLONE_INTO_CGROUP)` works: a child can be born inside a cgroup.
    pub clone_into_cgroup: Option<bool>,
    /// Seccomp filters can refuse a system call.
    pub seccomp: Option<bool>,
    /// There are namespaces for processes, mounts and cgroups.
    pub namespaces: Option<bool>,
    /// systemd is PID 1.
    pub systemd: Option<bool>,
    /// PID 1's own socket answered within half a second. `None` also where it was not asked.
    pub systemd_answers: Option<bool>,
    /// nscd listens: lookups through it would not be seen.
    pub nscd: bool,
    /// systemd-resolved listens: lookups through it would not be seen.
    pub resolved: bool,
    /// Name servers in `/etc/resolv.conf`, in order.
    pub resolvers: Option<Vec<IpAddr>>,
    /// Soft limit of locked memory in bytes; `u64::MAX` for none. Kernels before 5.11 charge BPF to it.
    pub locked_memory: u64,
}

/// Effective capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// CAP_BPF.
    pub bpf: bool,
    /// CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_PERFMON.
    pub perfmon: bool,
    /// CAP_NET_RAW.
    pub net_raw: bool,
    /// CAP_SYS_RESOURCE.
    pub sys_resource: bool,
}

/// The cgroup2 hierarchy of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup2 {
    /// The mount table could not be read.
    Unknown,
    /// Not mounted.
    Absent,
    /// Mounted, possibly more than once; the one that shows the most of the tree is named.
    Mounted(Cgroup2Mount),
}

/// Where cgroup2 is, and what it can do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup2Mount {
    /// The mount point.
    pub path: PathBuf,
    /// Version 1 hierarchies are mounted beside it.
    pub hybrid: bool,
    /// Mounted read-only, as in an unprivileged container.
    pub read_only: bool,
    /// Controllers available at the mount point.
    pub controllers: Option<BTreeSet<String>>,
    /// `cgroup.kill` exists. `None` where there is no cgroup but the root to look at.
    pub kill: Option<bool>,
}

/// Kernel lockdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// Off.
    Off,
    /// The kernel may not be changed. No matter to us.
    Integrity,
    /// The kernel may not be read either: programs that read kernel memory are refused.
    Confidentiality,
}

/// What the kernel's `bpf()` takes, found by offering it a program of two instructions. `None`: it
/// refused for another reason, most often a missing capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bpf {
    /// `cgroup_skb`: packets of a cgroup.
    pub cgroup_skb: Option<bool>,
    /// `cgroup/connect4`: a verdict at connect().
    pub connect: Option<bool>,
    /// `cgroup/sendmsg4`: a verdict at an unconnected send.
    pub sendmsg: Option<bool>,
    /// `cgroup/sock_create`: a socket is seen when it is made.
    pub sock_create: Option<bool>,
    /// `sock_release`: what a socket had sent when it was closed, and how its connection ended.
    pub sock_release: Option<bool>,
    /// `tp_btf`: typed tracepoints.
    pub tracing: Option<bool>,
    /// `cgroup/connect_unix` (6.7).
    pub connect_unix: Option<bool>,
    /// `bpf_set_retval` in connect4: the errno of a refusal can be chosen.
    pub set_retval: Option<bool>,
    /// `bpf_loop`.
    pub bounded_loop: Option<bool>,
    /// Ring buffers.
    pub ring_buffer: Option<bool>,
    /// `sockops`. Asked for `doctor` only, as the next.
    pub sock_ops: Option<bool>,
    /// `sk_msg`, and the table of sockets that it is attached to.
    pub sk_msg: Option<bool>,
    /// `lsm_cgroup` on unix sockets (6.0), whether or not the kernel asks `bpf`.
    pub socket_names: Option<bool>,
}

/// What is mounted, in the mount table's order: the type of each file system, and where it is.
pub(crate) fn mounted() -> Option<Vec<(String, PathBuf)>> {
    Some(
        cgroup::mounts()?
            .into_iter()
            .map(cgroup::Mount::whereabouts)
            .collect(),
    )
}

/// Every path at which a file is to be seen: without the links in its own, and by other mounts. Hard links are not found.
///
/// # Errors
/// If it cannot be looked at, or the mount table not be read.
pub fn paths_of(file: &Path) -> io::Result<Vec<PathBuf>> {
    let own = file.canonicalize()?;
    let mounts = cgroup::mounts();
    let mounts = mounts.ok_or_else(|| io::Error::other("the mount table cannot be read"))?;
    let which = |path: &Path| {
        let facts = path.symlink_metadata()?;
        Ok::<_, io::Error>((facts.dev(), facts.ino()))
    };
    let this = which(&own)?;
    let mut paths = cgroup::places(&mounts, &own);
    paths.retain(|path| which(path).is_ok_and(|other| other == this));
    paths.insert(0, own);
    Ok(paths)
}

impl Support {
    /// Every fact, for `doctor`.
    pub fn probe() -> Self {
        let mut facts = Self::for_run();
        facts.bpf.tracing = programs::tracing(&facts);
        (facts.bpf.sock_ops, facts.bpf.sk_msg) = programs::claims(&facts);
        facts.bpf.socket_names = programs::socket_names(&facts);
        facts.systemd_answers = match facts.systemd {
            Some(true) => host::systemd_answers(BUS_PATIENCE),
            _ => None,
        };
        facts
    }

    /// The facts that a run's plan needs, without those that take long: systemd is not asked whether it answers, since
    /// the run asks it for something anyway, nor the kernel for its tracepoints, since the loader finds them or not.
    pub fn for_run() -> Self {
        let mounts = cgroup::mounts();
        let mut facts = Self {
            euid: rustix::process::geteuid().as_raw(),
            capabilities: host::capabilities(),
            release: host::release(),
            arch: host::arch(),
            btf: host::exists(Path::new("/sys/kernel/btf/vmlinux")),
            cgroup2: cgroup::cgroup2(mounts.as_deref()),
            bpffs: mounts.as_deref().map(cgroup::bpffs),
            lockdown: host::lockdown(),
            unprivileged_bpf_disabled: host::unprivileged_bpf_disabled(),
            lsm: host::lsm(),
            bpf: Bpf::default(),
            clone_into_cgroup: programs::clone_into_cgroup(),
            seccomp: SocketFilter::is_possible(),
            namespaces: host::namespaces(),
            systemd: host::systemd(),
            systemd_answers: None,
            nscd: Path::new("/run/nscd/socket").exists()
                || Path::new("/var/run/nscd/socket").exists(),
            resolved: Path::new("/run/systemd/resolve/io.systemd.Resolve").exists(),
            resolvers: host::resolvers(),
            locked_memory: host::locked_memory(),
        };
        facts.bpf = programs::bpf(&facts);
        facts
    }

    /// Can this kernel, as this user, load `feature`? `None`: could not be told; try it.
    pub fn feature(&self, feature: Feature) -> Option<bool> {
        let needs: &[Option<bool>] = match feature {
            Feature::Names => &[self.bpf.cgroup_skb, self.bpf.bounded_loop],
            Feature::Addresses => &[self.bpf.connect, self.bpf.sendmsg, self.bpf.set_retval],
            Feature::SocketKinds => &[self.bpf.sock_create],
            Feature::Outcomes => &[self.bpf.sock_release],
            Feature::Processes | Feature::Leavers => &[self.bpf.tracing],
            Feature::UnixSockets => &[self.bpf.connect_unix],
            // The loader finds out.
            Feature::Contacts => &[self.bpf.tracing],
            Feature::ContactCalls => &[],
            // Where the kernel does not call `bpf`, such programs load and never run: what is not known is a no.
            Feature::SocketNames => &[
                Some(self.calls_bpf()),
                self.bpf.tracing,
                self.bpf.socket_names,
            ],
            Feature::Claims => &[self.bpf.sock_ops, self.bpf.sk_msg],
        };
        // Programs that read kernel memory through BTF are what confidentiality forbids.
        let unlocked = self
            .lockdown
            .map(|lockdown| lockdown != Lockdown::Confidentiality);
        let always = [
            self.btf,
            self.may_load(),
            self.bpf.ring_buffer,
            unlocked.or(Some(true)),
        ];
        let all = || needs.iter().chain(&always);
        if all().any(|need| *need == Some(false)) {
            Some(false)
        } else if all().all(|need| *need == Some(true)) {
            Some(true)
        } else {
            None
        }
    }

    /// Is `bpf` among the LSMs that the kernel asks?
    pub fn calls_bpf(&self) -> bool {
        let names = self.lsm.as_deref().unwrap_or_default();
        names.iter().any(|name| name == "bpf")
    }

    /// May this process load programs and attach them to a cgroup?
    pub fn may_load(&self) -> Option<bool> {
        self.capabilities
            .map(|has| has.sys_admin || (has.bpf && has.net_admin && has.perfmon))
    }

    /// The cgroup2 mount point, if there is one that can be written to.
    pub fn cgroup2_mount(&self) -> Option<&Path> {
        match &self.cgroup2 {
            Cgroup2::Mounted(mount) if !mount.read_only => Some(&mount.path),
            _ => None,
        }
    }

    /// The first name server is a stub on loopback, which asks the network on others' behalf.
    pub fn stub_resolver(&self) -> Option<bool> {
        self.resolvers
            .as_ref()
            .map(|list| list.iter().any(IpAddr::is_loopback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with everything, as far as `feature` looks.
    fn able() -> Support {
        let yes = Some(true);
        Support {
            capabilities: Some(Capabilities {
                sys_admin: true,
                ..Capabilities::default()
            }),
            btf: yes,
            lockdown: None,
            bpf: Bpf {
                cgroup_skb: yes,
                connect: yes,
                sendmsg: yes,
                sock_create: yes,
                sock_release: yes,
                tracing: yes,
                connect_unix: yes,
                set_retval: yes,
                bounded_loop: yes,
                ring_buffer: yes,
                sock_ops: yes,
                sk_msg: yes,
                socket_names: yes,
            },
            ..Support::for_run()
        }
    }

    #[test]
    fn unknown_is_neither_yes_nor_no() {
        let mut host = able();
        assert_eq!(host.feature(Feature::Names), Some(true));
        host.bpf.cgroup_skb = None;
        assert_eq!(host.feature(Feature::Names), None);
        host.btf = Some(false);
        assert_eq!(host.feature(Feature::Names), Some(false));
    }

    #[test]
    fn confidentiality_and_a_missing_capability_stop_everything() {
        let mut host = able();
        host.lockdown = Some(Lockdown::Confidentiality);
        assert_eq!(host.feature(Feature::Processes), Some(false));
        host = able();
        host.capabilities = Some(Capabilities {
            bpf: true,
            ..Capabilities::default()
        });
        assert_eq!(host.feature(Feature::Addresses), Some(false));
        host.capabilities = Some(Capabilities {
            bpf: true,
            net_admin: true,
            perfmon: true,
            ..Capabilities::default()
        });
        assert_eq!(host.feature(Feature::Addresses), Some(true));
    }

    #[test]
    fn only_unix_sockets_need_the_unix_hooks() {
        let mut host = able();
        host.bpf.connect_unix = Some(false);
        assert_eq!(host.feature(Feature::UnixSockets), Some(false));
        assert_eq!(host.feature(Feature::Addresses), Some(true));
    }

    /// Looking takes little time: `run` does it each time.
    #[test]
    fn probing_this_host_tells_its_kernel() {
        let began = std::time::Instant::now();
        let host = Support::for_run();
        let quick = began.elapsed();
        let full = Support::probe();
        println!("for_run {quick:?}, both {:?}\n{full:#?}", began.elapsed());
        assert!(!host.release.is_empty());
        assert_eq!(host.arch, std::env::consts::ARCH);
        let asked = Bpf {
            tracing: full.bpf.tracing,
            sock_ops: full.bpf.sock_ops,
            sk_msg: full.bpf.sk_msg,
            socket_names: full.bpf.socket_names,
            ..host.bpf
        };
        assert_eq!(full.bpf, asked);
        assert_eq!(host.bpf.tracing, host.btf.filter(|there| !there));
    }
}
