//! What to load, and whether what is missing may be missing. Pure: facts in, decision out.

use std::collections::BTreeSet;

use blackstart_core::report::{FOLLOW_GAP, Gap};
use blackstart_core::tables::Uses;
use blackstart_kernel::Feature;
use blackstart_kernel::support::{Lockdown, Support};

use crate::refusal::{Cause, Refusal};

/// Something that a run may have to go without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Capabilities, BTF, a kernel that is not locked down: without these nothing can be loaded.
    Bpf,
    /// A cgroup of its own.
    Cgroup,
    /// Lookups seen and judged.
    Names,
    /// Connections and datagrams seen and judged.
    Addresses,
    /// Processes followed.
    Processes,
    /// Leaving the cgroup noticed.
    Leavers,
    /// The process behind raw, ping and SCTP sockets.
    SocketKinds,
    /// Under an enforced `default: deny`: no sockets that nothing could judge.
    Families,
    /// A command that cannot undo its guard.
    Contain,
    /// What became of connections.
    Outcomes,
    /// Unix sockets seen and judged.
    UnixSockets,
    /// Names that connections give seen and judged.
    Claims,
    /// Rules about unix sockets.
    UnixRules,
    /// Daemons that resolve names out of sight, refused.
    ResolverSockets,
    /// Guarding that outlives the supervisor.
    Pins,
    /// A state directory.
    State,
    /// Proof before the start that refusing works.
    SelfProbe,
    /// A final answer to denied lookups.
    Answers,
    /// Lookups over TCP seen and judged.
    DnsOverTcp,
    /// Every name of /etc/hosts known.
    HostsFile,
    /// Every own address known.
    OwnAddresses,
    /// No sockets that were made before the run.
    InheritedSockets,
    /// The policy's limits.
    Limits,
    /// Units that the policy follows, seen from their start.
    Follow,
    /// Units that a rule of the agent's has guarded, seen from their start.
    Start,
    /// Processes that outlive the main child.
    Leftovers,
    /// A supervisor all the time.
    Supervision,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::Bpf,
        Self::Cgroup,
        Self::Names,
        Self::Addresses,
        Self::Processes,
        Self::Leavers,
        Self::SocketKinds,
        Self::Families,
        Self::Contain,
        Self::Outcomes,
        Self::UnixSockets,
        Self::Claims,
        Self::UnixRules,
        Self::ResolverSockets,
        Self::Pins,
        Self::State,
        Self::SelfProbe,
        Self::Answers,
        Self::DnsOverTcp,
        Self::HostsFile,
        Self::OwnAddresses,
        Self::InheritedSockets,
        Self::Limits,
        Self::Follow,
        Self::Start,
        Self::Leftovers,
        Self::Supervision,
    ];

    /// As `--accept-gap` takes it and the report's gaps name it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Cgroup => "cgroup",
            Self::Names => "names",
            Self::Addresses => "addresses",
            Self::Processes => "processes",
            Self::Leavers => "leavers",
            Self::SocketKinds => "socket_kinds",
            Self::Families => "unseen_families",
            Self::Contain => "contain",
            Self::Outcomes => "outcomes",
            Self::UnixSockets => "unix_sockets",
            Self::Claims => "claims",
            Self::UnixRules => "unix_rules",
            Self::ResolverSockets => "resolver_sockets",
            Self::Pins => "pins",
            Self::State => "state",
            Self::SelfProbe => "self_probe",
            Self::Answers => "answers",
            Self::DnsOverTcp => "dns_over_tcp",
            Self::HostsFile => "hosts_file",
            Self::OwnAddresses => "own_addresses",
            Self::InheritedSockets => "inherited_socket",
            Self::Limits => "limits",
            Self::Follow => FOLLOW_GAP,
            Self::Start => "unseen_start",
            Self::Leftovers => "leftovers",
            Self::Supervision => "unsupervised",
        }
    }

    /// Would enforcing without it refuse less than the policy says, or leave nobody to tell of it?
    fn enforcing_needs(self) -> bool {
        match self {
            Self::Bpf
            | Self::Cgroup
            | Self::Names
            | Self::Addresses
            | Self::Processes
            | Self::Leavers
            | Self::Families
            | Self::Contain
            | Self::Claims
            | Self::UnixRules
            | Self::ResolverSockets
            | Self::Pins
            | Self::State
            | Self::HostsFile
            | Self::Limits
            | Self::SelfProbe => true,
            Self::SocketKinds
            | Self::Outcomes
            | Self::UnixSockets
            | Self::Answers
            // Judged as any others.
            | Self::OwnAddresses
            // Unseen they are refused, or else counted.
            | Self::DnsOverTcp
            // They are the caller's doing, and what they reach was reached before.
            | Self::InheritedSockets
            // Observed, and never refused anything.
            | Self::Follow
            // It is over.
            | Self::Start
            | Self::Leftovers
            | Self::Supervision => false,
        }
    }

    fn of(feature: Feature) -> Self {
        match feature {
            Feature::Names => Self::Names,
            Feature::Addresses => Self::Addresses,
            Feature::SocketKinds => Self::SocketKinds,
            Feature::Outcomes => Self::Outcomes,
            Feature::Processes => Self::Processes,
            Feature::Leavers => Self::Leavers,
            Feature::UnixSockets
            | Feature::Contacts
            | Feature::ContactCalls
            | Feature::SocketNames => Self::UnixSockets,
            Feature::Claims => Self::Claims,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Bpf => {
                "run as root on a kernel with BTF; `blackstart doctor` says what is missing"
            }
            Self::Cgroup => "mount cgroup2 writable, or start from outside of the container",
            Self::Pins => "mount a bpffs on /sys/fs/bpf",
            Self::State => "name a writable directory in BLACKSTART_STATE",
            Self::Families => {
                "run as root with CAP_SYS_ADMIN on a kernel with CONFIG_SECCOMP_FILTER"
            }
            Self::Contain => {
                "run as root with CAP_SYS_ADMIN and CAP_SETPCAP, outside of containers that forbid \
                 namespaces; or leave it out with --no-contain"
            }
            Self::Claims => "let the policy say `inspect: []`",
            Self::UnixRules => {
                "use kernel 6.7 or newer, or one with `bpf` among its LSMs (`lsm=`), or --hide-sockets for paths that are denied to every process, \
                 or let the rule say `mode: observe`"
            }
            Self::ResolverSockets => {
                "stop nscd and systemd-resolved, or use --hide-sockets, or kernel 6.7 or newer"
            }
            Self::Limits => {
                "start from outside of containers and other runs, or enable the controllers in the \
                 cgroup.subtree_control of cgroup2"
            }
            _ => "see `blackstart doctor`",
        }
    }
}

/// The features in the order of their weight: the first to try when not all can be loaded.
pub(crate) const FEATURES: [Feature; 11] = [
    Feature::Addresses,
    Feature::Names,
    Feature::Processes,
    Feature::Leavers,
    Feature::SocketKinds,
    Feature::Outcomes,
    Feature::UnixSockets,
    Feature::Contacts,
    Feature::ContactCalls,
    Feature::SocketNames,
    Feature::Claims,
];

/// What was asked for, as far as gaps go; and the gaps met so far.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    enforce: bool,
    hides: bool,
    names: bool,
    accepted: BTreeSet<String>,
    gaps: Vec<Gap>,
}

impl Terms {
    /// `accepted` are kinds of gaps. A kind that does not exist was meant to be another.
    pub(crate) fn new(enforce: bool, accepted: &[String]) -> Result<Self, Refusal> {
        let kinds = Need::ALL.map(Need::kind);
        if let Some(unknown) = accepted.iter().find(|kind| !kinds.contains(&kind.as_str())) {
            return Err(Refusal {
                cause: Cause::Request,
                what: format!("no kind of gap is called `{unknown}`"),
                why: format!("there are {}", kinds.join(", ")),
                remedy: "correct --accept-gap".to_owned(),
            });
        }
        Ok(Self {
            enforce,
            hides: false,
            names: false,
            accepted: accepted.iter().cloned().collect(),
            gaps: Vec::new(),
        })
    }

    /// Sockets that are denied are put out of the command's reach.
    pub(crate) fn hide(&mut self) {
        self.hides = true;
    }

    /// Are they?
    pub(crate) fn hides(&self) -> bool {
        self.hides
    }

    /// Sockets that are denied are to be refused by their names, too, where the host can: the programs are made for this run, and
    /// do not lie ready.
    pub(crate) fn ask_names(&mut self) {
        self.names = true;
    }

    /// Is something to be refused?
    pub(crate) fn enforcing(&self) -> bool {
        self.enforce
    }

    /// May the run go without this, though something is refused?
    pub(crate) fn accepts(&self, need: Need) -> bool {
        self.accepted.contains(need.kind())
    }

    /// Is everything there that enforcing needs, asked for or not?
    pub(crate) fn may_enforce(&self) -> bool {
        let needed = |kind: &str| {
            Need::ALL
                .into_iter()
                .any(|need| need.kind() == kind && need.enforcing_needs())
        };
        self.enforce || !self.gaps.iter().any(|gap| needed(&gap.kind))
    }

    /// Go on without something, or refuse to.
    pub(crate) fn lack(&mut self, need: Need, why: impl Into<String>) -> Result<(), Refusal> {
        let why = why.into();
        if self.enforce && need.enforcing_needs() && !self.accepts(need) {
            return Err(Refusal {
                cause: Cause::Unmet(need),
                what: format!("this host cannot enforce: {} is missing", need.kind()),
                why,
                remedy: format!(
                    "{}; or accept it with --accept-gap {}",
                    need.remedy(),
                    need.kind()
                ),
            });
        }
        self.note(need, why, 0);
        Ok(())
    }

    /// Enforcing with neither names nor addresses enforces nothing, whatever was accepted.
    pub(crate) fn nothing_left(&self, why: &str) -> Result<(), Refusal> {
        if !self.enforce {
            return Ok(());
        }
        Err(Refusal {
            cause: Cause::Unmet(Need::Bpf),
            what: "this host cannot enforce: nothing would be refused".to_owned(),
            why: why.to_owned(),
            remedy: format!("{}; or use --mode observe", Need::Bpf.remedy()),
        })
    }

    /// Put something on the list of gaps once the run is on: too late to refuse.
    pub(crate) fn note(&mut self, need: Need, detail: impl Into<String>, count: u64) {
        let gap = Gap {
            kind: need.kind().to_owned(),
            detail: detail.into(),
            count,
        };
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }

    /// The gaps met so far.
    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// What the first of them is, for a refusal: empty without any.
    pub(crate) fn first_gap(&self) -> String {
        self.gaps
            .first()
            .map_or_else(String::new, |gap| gap.detail.clone())
    }
}

/// The features that a run is whole with, under a policy that `uses` these.
pub(crate) fn needed(uses: Uses) -> impl Iterator<Item = Feature> {
    let wanted = move |feature: &Feature| match feature {
        Feature::Claims => uses.claims,
        // In the place of another one, and beside it where the host can.
        Feature::Contacts | Feature::ContactCalls | Feature::SocketNames => false,
        _ => true,
    };
    FEATURES.into_iter().filter(wanted)
}

/// Which features to load on this host, of those that the policy `uses`. Empty: the run goes unguarded.
pub(crate) fn plan(
    host: &Support,
    uses: Uses,
    terms: &mut Terms,
) -> Result<BTreeSet<Feature>, Refusal> {
    if let Some(why) = nothing_loads(host) {
        terms.nothing_left(&why)?;
        terms.lack(Need::Bpf, why)?;
        return Ok(BTreeSet::new());
    }
    kernel_can_enforce(host, uses, terms)?;
    let mut features = BTreeSet::new();
    if refuses_names(host, uses, terms) {
        features.insert(Feature::SocketNames);
    }
    for feature in needed(uses) {
        // Not known is worth a try: the loader will tell.
        if host.feature(feature) == Some(false) {
            let mut why = format!("kernel {} lacks {}", host.release, feature.stands_on());
            if let (Feature::UnixSockets, Some(instead)) = (feature, contacts(host)) {
                why.push_str(match features.contains(&Feature::SocketNames) {
                    true => ": contacts with them are recorded once they are over, and refused by the LSM hooks",
                    false => ": contacts with them are recorded once they are over",
                });
                features.insert(instead);
            }
            terms.lack(Need::of(feature), why)?;
        } else {
            features.insert(feature);
        }
    }
    resolver_sockets(host, &features, terms)?;
    Ok(features)
}

/// All that an enforcing run needs and the kernel lacks, said at once: who is told one at a time tries as often.
fn kernel_can_enforce(host: &Support, uses: Uses, terms: &Terms) -> Result<(), Refusal> {
    let lacking: Vec<_> = needed(uses)
        .filter(|feature| terms.enforcing() && host.feature(*feature) == Some(false))
        .map(|feature| (Need::of(feature), feature.stands_on()))
        .filter(|(need, _)| need.enforcing_needs() && !terms.accepts(*need))
        .collect();
    let Some((first, _)) = lacking.first() else {
        return Ok(());
    };
    let list = |each: &dyn Fn(&(Need, &'static str)) -> String, between: &str| {
        let all: Vec<_> = lacking.iter().map(each).collect();
        all.join(between)
    };
    let (are, them) = match lacking.len() {
        1 => ("is", "it"),
        _ => ("are", "them"),
    };
    let mut remedies: Vec<_> = lacking.iter().map(|(need, _)| need.remedy()).collect();
    remedies.dedup();
    Err(Refusal {
        cause: Cause::Unmet(*first),
        what: format!(
            "this host cannot enforce: {} {are} missing",
            list(&|(need, _)| need.kind().to_owned(), ", ")
        ),
        why: format!(
            "kernel {} lacks {}",
            host.release,
            list(&|(_, what)| (*what).to_owned(), "; ")
        ),
        remedy: format!(
            "{}; or accept {them} with {}",
            remedies.join("; "),
            list(&|(need, _)| format!("--accept-gap {}", need.kind()), " ")
        ),
    })
}

/// Are sockets to be refused by the names that they have? By rules, and where no hook knows of paths those of daemons that
/// resolve names as well.
fn refuses_names(host: &Support, uses: Uses, terms: &Terms) -> bool {
    let wanted = uses.sockets || host.feature(Feature::UnixSockets) == Some(false);
    let can = host.feature(Feature::SocketNames) != Some(false);
    terms.enforce && terms.names && wanted && can
}

/// How contacts with unix sockets are recorded where no hook judges them.
fn contacts(host: &Support) -> Option<Feature> {
    [Feature::Contacts, Feature::ContactCalls]
        .into_iter()
        .find(|feature| host.feature(*feature) != Some(false))
}

/// What to load where the loader refused `wanted`, if there is another way to the same.
pub(crate) fn instead(wanted: &BTreeSet<Feature>) -> Option<BTreeSet<Feature>> {
    let mut other = wanted.clone();
    if other.remove(&Feature::SocketNames) {
        return Some(other);
    }
    (other.remove(&Feature::Contacts) && other.insert(Feature::ContactCalls)).then_some(other)
}

/// After the loader had its say: `missing` could not be loaded, and why.
pub(crate) fn replan(
    host: &Support,
    loaded: &BTreeSet<Feature>,
    missing: &[(Feature, String)],
    terms: &mut Terms,
) -> Result<(), Refusal> {
    if !loaded.contains(&Feature::Names) && !loaded.contains(&Feature::Addresses) {
        terms.nothing_left(
            missing
                .first()
                .map_or("nothing could be loaded", |(_, why)| why),
        )?;
    }
    for (feature, why) in missing {
        terms.lack(Need::of(*feature), why.as_str())?;
    }
    resolver_sockets(host, loaded, terms)
}

/// A name resolved by a daemon outside of the run is a lookup that nobody judges.
fn resolver_sockets(
    host: &Support,
    features: &BTreeSet<Feature>,
    terms: &mut Terms,
) -> Result<(), Refusal> {
    let daemons: Vec<_> = [(host.nscd, "nscd"), (host.resolved, "systemd-resolved")]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect();
    let refused = [Feature::UnixSockets, Feature::SocketNames];
    let refused = refused.iter().any(|feature| features.contains(feature));
    if daemons.is_empty() || refused || terms.hides() {
        return Ok(());
    }
    let why = format!(
        "lookups through {} are not seen: its socket cannot be refused on this kernel",
        daemons.join(" and ")
    );
    terms.lack(Need::ResolverSockets, why)
}

/// Why no program at all can be loaded here, if so.
fn nothing_loads(host: &Support) -> Option<String> {
    if host.may_load() == Some(false) {
        let who = match host.euid {
            0 => "root, as in a container or in a run with --contain,".to_owned(),
            other => format!("user {other}"),
        };
        return Some(format!(
            "{who} lacks CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN)"
        ));
    }
    if host.lockdown == Some(Lockdown::Confidentiality) {
        return Some(
            "the kernel is locked down for confidentiality, which forbids programs that read it"
                .to_owned(),
        );
    }
    if host.btf == Some(false) {
        return Some(format!(
            "kernel {} has no BTF (/sys/kernel/btf/vmlinux)",
            host.release
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_kernel::support::{Bpf, Capabilities};

    fn able() -> Support {
        Support {
            euid: 0,
            capabilities: Some(Capabilities {
                sys_admin: true,
                ..Capabilities::default()
            }),
            btf: Some(true),
            lockdown: None,
            // Not known: worth a try.
            bpf: Bpf::default(),
            nscd: false,
            resolved: false,
            ..Support::for_run()
        }
    }

    fn terms(enforce: bool, accepted: &[&str]) -> Terms {
        Terms::new(
            enforce,
            &accepted
                .iter()
                .map(|kind| (*kind).to_owned())
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    fn kinds(terms: &Terms) -> Vec<&str> {
        terms.gaps().iter().map(|gap| gap.kind.as_str()).collect()
    }

    #[test]
    fn an_able_host_loads_everything() {
        for enforce in [false, true] {
            let mut terms = terms(enforce, &[]);
            assert_eq!(
                plan(&able(), Uses::ALL, &mut terms).unwrap(),
                needed(Uses::ALL).collect()
            );
            assert!(terms.gaps().is_empty());
        }
    }

    #[test]
    fn all_that_the_kernel_lacks_is_said_at_once() {
        let mut host = able();
        host.bpf.bounded_loop = Some(false);
        host.bpf.set_retval = Some(false);
        let refused = |accepted: &[&str]| plan(&host, Uses::ALL, &mut terms(true, accepted));
        let refusal = refused(&[]).unwrap_err();
        assert_eq!(
            refusal.what,
            "this host cannot enforce: addresses, names are missing"
        );
        assert!(
            refusal.why.ends_with(
                "lacks connect and sendmsg of a cgroup, with bpf_set_retval; packets of a cgroup, with bpf_loop"
            ),
            "{}",
            refusal.why
        );
        assert_eq!(
            refusal.remedy,
            "see `blackstart doctor`; or accept them with --accept-gap addresses --accept-gap names"
        );
        let refusal = refused(&["names"]).unwrap_err();
        assert_eq!(
            refusal.what,
            "this host cannot enforce: addresses is missing"
        );
    }

    #[test]
    fn observe_goes_on_where_enforce_refuses() {
        let mut host = able();
        host.bpf.cgroup_skb = Some(false);
        let mut observe = terms(false, &[]);
        assert!(
            !plan(&host, Uses::ALL, &mut observe)
                .unwrap()
                .contains(&Feature::Names)
        );
        assert_eq!(kinds(&observe), ["names"]);
        let refusal = plan(&host, Uses::ALL, &mut terms(true, &[])).unwrap_err();
        assert_eq!(refusal.cause, Cause::Unmet(Need::Names));
        assert!(refusal.remedy.contains("--accept-gap names"), "{refusal}");
        let mut accepted = terms(true, &["names"]);
        plan(&host, Uses::ALL, &mut accepted).unwrap();
        assert_eq!(kinds(&accepted), ["names"]);
    }

    #[test]
    fn without_privilege_observe_is_unguarded_and_enforce_refuses_whatever_is_accepted() {
        let mut host = able();
        host.capabilities = Some(Capabilities::default());
        let mut observe = terms(false, &[]);
        assert!(plan(&host, Uses::ALL, &mut observe).unwrap().is_empty());
        assert_eq!(kinds(&observe), ["bpf"]);
        assert!(plan(&host, Uses::ALL, &mut terms(true, &["bpf"])).is_err());
    }

    #[test]
    fn a_resolver_daemon_out_of_sight_is_a_hole_in_enforcing() {
        let mut host = able();
        host.resolved = true;
        assert!(plan(&host, Uses::ALL, &mut terms(true, &[])).is_ok());
        host.bpf.connect_unix = Some(false);
        let refusal = plan(&host, Uses::ALL, &mut terms(true, &[])).unwrap_err();
        assert_eq!(refusal.cause, Cause::Unmet(Need::ResolverSockets));
        // Out of the command's reach it is as good as stopped.
        let mut hiding = terms(true, &[]);
        hiding.hide();
        plan(&host, Uses::ALL, &mut hiding).unwrap();
        assert_eq!(kinds(&hiding), ["unix_sockets"]);
        host.resolved = false;
        let mut fine = terms(true, &[]);
        plan(&host, Uses::ALL, &mut fine).unwrap();
        assert_eq!(kinds(&fine), ["unix_sockets"]);
    }

    #[test]
    fn contacts_are_recorded_where_no_hook_judges_them() {
        let mut host = able();
        host.bpf.connect_unix = Some(false);
        let mut observe = terms(false, &[]);
        let first = plan(&host, Uses::ALL, &mut observe).unwrap();
        assert!(first.contains(&Feature::Contacts) && !first.contains(&Feature::ContactCalls));
        // Every system call of the host costs more by the other way: only if the loader wants it.
        let second = instead(&first).unwrap();
        assert!(!second.contains(&Feature::Contacts) && second.contains(&Feature::ContactCalls));
        assert_eq!(second.len(), first.len());
        assert_eq!(instead(&second), None);
        assert!(observe.gaps()[0].detail.contains("once they are over"));
    }

    #[test]
    fn sockets_are_refused_by_name_where_the_kernel_asks_bpf_and_something_is_refused() {
        let mut host = able();
        host.bpf.connect_unix = Some(false);
        host.resolved = true;
        host.lsm = Some(vec!["lockdown".to_owned(), "bpf".to_owned()]);
        let asking = |enforce| {
            let mut terms = terms(enforce, &[]);
            terms.ask_names();
            terms
        };
        let names = |host: &Support, mut terms: Terms| {
            let features = plan(host, Uses::ALL, &mut terms)?;
            Ok::<_, Refusal>(features.contains(&Feature::SocketNames))
        };
        assert_eq!(names(&host, asking(true)), Ok(true), "resolved's, too");
        assert_eq!(names(&host, asking(false)), Ok(false));
        // Made ahead, for a policy that is not known.
        assert!(names(&host, terms(true, &[])).is_err());
        for without in [None, Some(vec!["lockdown".to_owned()])] {
            host.lsm = without;
            assert!(names(&host, asking(true)).is_err());
        }
        let wanted = BTreeSet::from([Feature::SocketNames, Feature::Contacts]);
        let first = instead(&wanted).unwrap();
        assert_eq!(first, BTreeSet::from([Feature::Contacts]));
        assert_eq!(
            instead(&first),
            Some(BTreeSet::from([Feature::ContactCalls]))
        );
    }

    #[test]
    fn what_is_not_known_is_tried_and_the_loader_has_the_last_word() {
        let mut host = able();
        host.bpf.tracing = None;
        let mut enforce = terms(true, &[]);
        let features = plan(&host, Uses::ALL, &mut enforce).unwrap();
        assert!(features.contains(&Feature::Processes));
        let loaded = BTreeSet::from([Feature::Names, Feature::Addresses]);
        let missing = [(Feature::Processes, "refused".to_owned())];
        assert_eq!(
            replan(&host, &loaded, &missing, &mut enforce)
                .unwrap_err()
                .cause,
            Cause::Unmet(Need::Processes)
        );
        let nothing = replan(
            &host,
            &BTreeSet::new(),
            &missing,
            &mut terms(true, &["processes"]),
        );
        assert!(nothing.is_err());
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        let refusal = Terms::new(true, &["nams".to_owned()]).unwrap_err();
        assert!(refusal.why.contains("names"), "{refusal}");
    }
}
