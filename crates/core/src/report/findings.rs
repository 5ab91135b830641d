//! From rows to deduplicated problems.

use std::collections::{BTreeMap, HashMap};

use super::assemble::Lens;
use super::delegates::{alias_findings, delegate_findings};
use super::drill::drill_finding;
use super::encrypted::encrypted_findings;
use super::ledger::Slot;
use super::limits::limit_findings;
use super::whole::whole_findings;
use super::{Finding, RulePlace, Severity, Verdict, image_name};
use crate::policy::{Reaction, Rule};
use crate::tables::{RULE_DEFAULT, RULE_RESOLVER_SOCKET, RuleId};

const UDP: u8 = 17;

/// What tells one finding from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    would: bool,
    destination: String,
    exe: String,
    rule: RuleId,
}

/// What is gathered under a key.
#[derive(Debug, Default)]
struct Group {
    /// The first subject that met it; none where no row knew its subject.
    subject: Option<u64>,
    /// Nothing but lookups.
    only_lookup: bool,
}

impl Group {
    fn meet(&mut self, subject: Option<u64>) {
        self.subject = match (self.subject, subject) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

pub(super) fn findings(lens: &Lens<'_>) -> Vec<Finding> {
    let mut found = refusals(lens);
    found.extend(sockets(lens));
    found.extend(whole_findings(lens));
    found.extend(encrypted_findings(lens));
    found.extend(delegate_findings(lens));
    found.extend(alias_findings(lens));
    found.extend(leavers(lens));
    found.extend(leftovers(lens));
    found.extend(expired(lens));
    found.extend(unfollowed(lens));
    found.extend(broken_glass(lens));
    found.extend(limit_findings(lens));
    found.extend(drill_finding(lens));
    sort(&mut found);
    found
}

/// The worst first; the id settles what is otherwise the same.
pub(super) fn sort(found: &mut [Finding]) {
    found.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| (&a.kind, &a.title, &a.id).cmp(&(&b.kind, &b.title, &b.id)))
    });
}

fn refusals(lens: &Lens<'_>) -> Vec<Finding> {
    let exe = |slot: Slot| match lens.subject(slot) {
        Some(number) => lens.name_of(number),
        None => "unknown process".to_owned(),
    };
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    // (would, exe, name) → the first group of connects there, which a lookup of the name joins.
    let mut of_name: HashMap<(bool, String, String), Key> = HashMap::new();

    for row in &lens.record.flows {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        // Nothing can be sent to port 0: whoever connected a datagram socket there asked for the way.
        if row.told_by_another || (row.protocol == UDP && row.port == 0 && row.bytes_sent == 0) {
            continue;
        }
        let name = (row.name != 0).then(|| lens.name(row.name));
        let host = match (&name, row.address) {
            (Some(name), _) => name.clone(),
            (None, std::net::IpAddr::V6(v6)) if row.port != 0 => format!("[{v6}]"),
            (None, address) => address.to_string(),
        };
        let destination = if row.port == 0 {
            host
        } else {
            format!("{host}:{}", row.port)
        };
        let key = Key {
            would,
            destination,
            exe: exe(row.subject),
            rule: row.rule,
        };
        if let Some(name) = name {
            let first = of_name
                .entry((would, key.exe.clone(), name))
                .or_insert_with(|| key.clone());
            if key < *first {
                *first = key.clone();
            }
        }
        groups
            .entry(key)
            .or_default()
            .meet(lens.subject(row.subject));
    }
    for row in &lens.record.queries {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        let name = lens.name(row.name);
        let exe = exe(row.subject);
        let joined = of_name.get(&(would, exe.clone(), name.clone())).cloned();
        let key = joined.unwrap_or(Key {
            would,
            destination: name,
            exe,
            rule: row.rule,
        });
        let group = groups.entry(key).or_insert_with(|| Group {
            subject: None,
            only_lookup: true,
        });
        group.meet(lens.subject(row.subject));
    }
    for row in &lens.record.delegates {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        // Refused always and on purpose, so that lookups take the way that is seen: not a problem. Where a path led elsewhere,
        // that is a finding of its own.
        if row.rule == RULE_RESOLVER_SOCKET || row.alias().is_some() {
            continue;
        }
        let key = Key {
            would,
            destination: format!("unix:{}", row.path),
            exe: exe(row.subject),
            rule: row.rule,
        };
        groups
            .entry(key)
            .or_default()
            .meet(lens.subject(row.subject));
    }
    groups
        .into_iter()
        .map(|(key, group)| refusal(lens, &key, &group))
        .collect()
}

/// `Some(would)` if the verdict is a refusal, in deed or in observe mode.
fn refused(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Deny => Some(false),
        Verdict::WouldDeny => Some(true),
        Verdict::Allow | Verdict::Waived | Verdict::BreakGlass => None,
    }
}

fn refusal(lens: &Lens<'_>, key: &Key, group: &Group) -> Finding {
    let (kind, severity, verb) = if key.would {
        ("would_deny", Severity::Warning, "would be refused")
    } else {
        ("denied_dependency", Severity::Error, "was refused")
    };
    let what = if group.only_lookup {
        "the lookup of "
    } else {
        ""
    };
    let text = lens.rule(key.rule);
    let rule = lens.facts.policy.and_then(|p| p.rule(key.rule));
    let fix = said(rule.and_then(|r| r.fix.as_deref())).or_else(|| {
        (key.rule == RULE_DEFAULT).then(|| {
            format!(
                "if the deployment may need it, add `- allow: {}`",
                key.destination
            )
        })
    });
    Finding {
        id: stable_id(&[kind, &text, &key.destination, &key.exe]),
        kind: kind.to_owned(),
        severity,
        title: printable(&format!("{} {verb} {what}{}", key.exe, key.destination)),
        owner: said(rule.and_then(|r| r.owner.as_deref())),
        command: group.subject.map(|number| lens.argv_of(number)),
        subjects: group
            .subject
            .map(|number| lens.chain_of(number))
            .unwrap_or_default(),
        rule: Some(text),
        reason: said(rule.and_then(|r| r.reason.as_deref())),
        fix,
        reaction: Some(rule.map_or(Reaction::default(), |rule| rule.reaction)),
        place: rule.map(RulePlace::of),
        circle: None,
    }
}

/// Sockets that were refused, or would be, for what they are: they have no destination, and no rule of a policy.
fn sockets(lens: &Lens<'_>) -> Vec<Finding> {
    let mut groups: BTreeMap<(bool, String, String, RuleId), Group> = BTreeMap::new();
    for row in &lens.record.sockets {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        let subject = lens.subject(row.subject);
        let exe = match subject {
            Some(number) => lens.name_of(number),
            None => "unknown process".to_owned(),
        };
        groups
            .entry((would, exe, row.kind.to_string(), row.rule))
            .or_default()
            .meet(subject);
    }
    groups
        .iter()
        .map(|((would, exe, socket, rule), group)| {
            refused_socket(lens, (*would, exe, socket), *rule, group)
        })
        .collect()
}

fn refused_socket(
    lens: &Lens<'_>,
    (would, exe, socket): (bool, &str, &str),
    rule: RuleId,
    group: &Group,
) -> Finding {
    let (kind, severity, verb) = if would {
        ("would_deny_socket", Severity::Warning, "would be refused")
    } else {
        ("denied_socket", Severity::Error, "was refused")
    };
    let text = lens.rule(rule);
    Finding {
        id: stable_id(&[kind, &text, socket, exe]),
        kind: kind.to_owned(),
        severity,
        title: printable(&format!("{exe} {verb} {socket}")),
        owner: None,
        command: group.subject.map(|number| lens.argv_of(number)),
        subjects: group
            .subject
            .map(|number| lens.chain_of(number))
            .unwrap_or_default(),
        rule: Some(text),
        reason: Some(
            "nothing could judge what is sent through it before it is sent, and the default denies"
                .to_owned(),
        ),
        fix: Some(
            "if the deployment may need it, run with --accept-gap unseen_families".to_owned(),
        ),
        reaction: None,
        place: None,
        circle: None,
    }
}

fn leavers(lens: &Lens<'_>) -> Vec<Finding> {
    let mut groups: BTreeMap<(String, bool), Option<u64>> = BTreeMap::new();
    for row in &lens.record.leavers {
        let number = lens.subject(row.subject);
        let exe = match number {
            Some(number) => lens.name_of(number),
            None => format!("process {}", row.tgid),
        };
        let first = groups.entry((exe, row.returned)).or_insert(number);
        *first = match (*first, number) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    let finding = |((exe, returned), number): ((String, bool), Option<u64>)| Finding {
        id: stable_id(&[
            "left_cgroup",
            if returned { "returned" } else { "" },
            "",
            &exe,
        ]),
        kind: "left_cgroup".to_owned(),
        severity: Severity::Warning,
        title: printable(&format!(
            "{exe} left the run's cgroup and was {}",
            if returned {
                "moved back; what it reached for in between was not judged"
            } else {
                "not seen from then on"
            }
        )),
        owner: None,
        command: number.map(|number| lens.argv_of(number)),
        subjects: number
            .map(|number| lens.chain_of(number))
            .unwrap_or_default(),
        rule: None,
        reason: None,
        fix: None,
        reaction: None,
        place: None,
        circle: None,
    };
    groups.into_iter().map(finding).collect()
}

fn leftovers(lens: &Lens<'_>) -> Vec<Finding> {
    // Workers of one daemon look all the same: one finding, with every process id.
    let mut groups: BTreeMap<(String, Vec<String>), BTreeMap<u32, Option<u64>>> = BTreeMap::new();
    for leftover in &lens.facts.leftovers {
        let subject = lens.last_image(leftover.tgid);
        let argv = lens.facts.redaction.of(&leftover.argv);
        let exe = match subject {
            Some(number) => lens.name_of(number),
            None if argv.is_empty() => "a process".to_owned(),
            None => image_name("", &argv).to_owned(),
        };
        groups
            .entry((exe, argv))
            .or_default()
            .insert(leftover.tgid, subject);
    }
    let mut found = Vec::with_capacity(groups.len());
    for ((exe, argv), processes) in groups {
        let word = if processes.len() == 1 {
            "process"
        } else {
            "processes"
        };
        let ids: Vec<_> = processes.keys().map(u32::to_string).collect();
        let subject = processes.values().flatten().min().copied();
        found.push(Finding {
            id: stable_id(&["leftover", "", &argv.join(" "), &exe]),
            kind: "leftover".to_owned(),
            severity: Severity::Info,
            title: printable(&format!(
                "{exe} ({word} {}) outlived the command",
                ids.join(", ")
            )),
            owner: None,
            command: Some(argv),
            subjects: subject
                .map(|number| lens.chain_of(number))
                .unwrap_or_default(),
            rule: None,
            reason: None,
            fix: None,
            reaction: None,
            place: None,
            circle: None,
        });
    }
    found
}

/// Everything was let pass, on purpose.
fn broken_glass(lens: &Lens<'_>) -> Option<Finding> {
    let reason = lens.facts.break_glass.as_ref()?;
    Some(Finding {
        id: stable_id(&["break_glass", "", "", ""]),
        kind: "break_glass".to_owned(),
        severity: Severity::Warning,
        title: printable(&format!(
            "nothing was refused, the glass was broken: {reason}"
        )),
        owner: None,
        command: None,
        subjects: Vec::new(),
        rule: None,
        reason: Some(printable(reason)),
        fix: None,
        reaction: None,
        place: None,
        circle: None,
    })
}

/// Waivers whose last day was over when the run began.
fn expired(lens: &Lens<'_>) -> Vec<Finding> {
    let waivers = lens.facts.policy.map_or(&[][..], |policy| &policy.expired);
    let finding = |waiver: &Rule| {
        let until = waiver.expires.as_deref().unwrap_or("a day that is over");
        let place = format!("{}:{}", waiver.file, waiver.line);
        Finding {
            id: stable_id(&["waiver_expired", &waiver.text, until, ""]),
            kind: "waiver_expired".to_owned(),
            severity: Severity::Warning,
            title: printable(&format!("the {} expired on {until}", waiver.text)),
            owner: said(waiver.owner.as_deref()),
            command: None,
            subjects: Vec::new(),
            rule: Some(waiver.text.to_string()),
            reason: said(waiver.reason.as_deref()),
            fix: Some(printable(&format!(
                "remove it from {place}, or give it a new day if it is still needed"
            ))),
            reaction: None,
            place: None,
            circle: None,
        }
    };
    waivers.iter().map(finding).collect()
}

/// What was to be followed, and did not start.
fn unfollowed(lens: &Lens<'_>) -> Vec<Finding> {
    let finding = |unit: &String| Finding {
        id: stable_id(&["not_followed", unit, "", ""]),
        kind: "not_followed".to_owned(),
        severity: Severity::Info,
        title: printable(&format!(
            "{unit}, which the policy follows, did not start while the run was on"
        )),
        owner: None,
        command: None,
        subjects: Vec::new(),
        rule: None,
        reason: None,
        fix: Some("remove it from `follow:` if this run does not start it".to_owned()),
        reaction: None,
        place: None,
        circle: None,
    };
    lens.facts.unfollowed.iter().map(finding).collect()
}

/// Control characters escaped: a title is one line, and a process chose some of its text.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// FNV-1a, 64 bit, over the parts, each ended by a byte that no text holds. The algorithm is part of the
/// format: ids are compared across versions.
pub(crate) fn stable_id(parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What a rule says, for the report.
fn said(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}
