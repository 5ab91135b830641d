//! From rows to deduplicated problems.

use std::collections::{BTreeMap, HashMap};

use super::assemble::Lens;
use super::delegates::{alias_findings, delegate_findings};
use super::drill::drill_finding;
use super::encrypted::encrypted_findings;
use super::limits::limit_findings;
use super::whole::whole_findings;
use super::{Finding, RulePlace, Severity, Verdict};
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

impl Finding {
    /// The process behind it, where that is known, and its ancestors.
    pub(super) fn by(self, lens: &Lens<'_>, subject: Option<u64>) -> Self {
        Self {
            command: subject.map(|number| lens.argv_of(number)),
            subjects: subject
                .map(|number| lens.chain_of(number))
                .unwrap_or_default(),
            ..self
        }
    }
}

/// Of those that met the same, the first subject counts.
pub(super) fn meet(first: &mut Option<u64>, subject: Option<u64>) {
    *first = [*first, subject].into_iter().flatten().min();
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
        let key = Key {
            would,
            destination: lens.destination(row),
            exe: lens.who(row.subject),
            rule: row.rule,
        };
        if row.name != 0 {
            let first = of_name
                .entry((would, key.exe.clone(), lens.name(row.name)))
                .or_insert_with(|| key.clone());
            if key < *first {
                *first = key.clone();
            }
        }
        let group = groups.entry(key).or_default();
        meet(&mut group.subject, lens.subject(row.subject));
    }
    for row in &lens.record.queries {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        let name = lens.name(row.name);
        let exe = lens.who(row.subject);
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
        meet(&mut group.subject, lens.subject(row.subject));
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
            exe: lens.who(row.subject),
            rule: row.rule,
        };
        let group = groups.entry(key).or_default();
        meet(&mut group.subject, lens.subject(row.subject));
    }
    groups
        .into_iter()
        .map(|(key, group)| refusal(lens, &key, &group))
        .collect()
}

/// `Some(would)` if the verdict is a refusal, in deed or in observe mode.
pub(super) fn refused(verdict: Verdict) -> Option<bool> {
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
    let title = format!("{} {verb} {what}{}", key.exe, key.destination);
    let about = [&*text, &key.destination, &key.exe];
    let found = Finding::new(kind, severity, &title, &about).by(lens, group.subject);
    Finding {
        owner: said(rule.and_then(|r| r.owner.as_deref())),
        rule: Some(text),
        reason: said(rule.and_then(|r| r.reason.as_deref())),
        fix,
        reaction: Some(rule.map_or(Reaction::default(), |rule| rule.reaction)),
        place: rule.map(RulePlace::of),
        ..found
    }
}

/// Sockets that were refused, or would be, for what they are: they have no destination, and no rule of a policy.
fn sockets(lens: &Lens<'_>) -> Vec<Finding> {
    let mut groups: BTreeMap<(bool, String, String, RuleId), Option<u64>> = BTreeMap::new();
    for row in &lens.record.sockets {
        let Some(would) = refused(row.verdict) else {
            continue;
        };
        let key = (would, lens.who(row.subject), row.kind.to_string(), row.rule);
        meet(groups.entry(key).or_default(), lens.subject(row.subject));
    }
    groups
        .iter()
        .map(|((would, exe, socket, rule), subject)| {
            refused_socket(lens, (*would, exe, socket), *rule, *subject)
        })
        .collect()
}

fn refused_socket(
    lens: &Lens<'_>,
    (would, exe, socket): (bool, &str, &str),
    rule: RuleId,
    subject: Option<u64>,
) -> Finding {
    let (kind, severity, verb) = if would {
        ("would_deny_socket", Severity::Warning, "would be refused")
    } else {
        ("denied_socket", Severity::Error, "was refused")
    };
    let text = lens.rule(rule);
    let title = format!("{exe} {verb} {socket}");
    let found = Finding::new(kind, severity, &title, &[&text, socket, exe]).by(lens, subject);
    Finding {
        rule: Some(text),
        reason: Some(
            "nothing could judge what is sent through it before it is sent, and the default denies"
                .to_owned(),
        ),
        fix: Some(
            "if the deployment may need it, run with --accept-gap unseen_families".to_owned(),
        ),
        ..found
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
        meet(groups.entry((exe, row.returned)).or_default(), number);
    }
    let finding = |((exe, returned), number): ((String, bool), Option<u64>)| {
        let (word, what) = if returned {
            (
                "returned",
                "moved back; what it reached for in between was not judged",
            )
        } else {
            ("", "not seen from then on")
        };
        let title = format!("{exe} left the run's cgroup and was {what}");
        let about = [word, "", &*exe];
        Finding::new("left_cgroup", Severity::Warning, &title, &about).by(lens, number)
    };
    groups.into_iter().map(finding).collect()
}

fn leftovers(lens: &Lens<'_>) -> Vec<Finding> {
    // Workers of one daemon look all the same: one finding, with every process id.
    let mut groups: BTreeMap<(String, Vec<String>), BTreeMap<u32, Option<u64>>> = BTreeMap::new();
    for leftover in &lens.facts.leftovers {
        let argv = lens.facts.redaction.of(&leftover.argv);
        groups
            .entry((lens.name_of_process(leftover), argv))
            .or_default()
            .insert(leftover.tgid, lens.last_image(leftover.tgid));
    }
    let finding = |((exe, argv), of_it): ((String, Vec<String>), BTreeMap<u32, Option<u64>>)| {
        let ids = processes(of_it.keys().copied());
        let subject = of_it.values().flatten().min().copied();
        let title = format!("{exe} ({ids}) outlived the command");
        let about = ["", &*argv.join(" "), &*exe];
        let found = Finding::new("leftover", Severity::Info, &title, &about).by(lens, subject);
        Finding {
            command: Some(argv),
            ..found
        }
    };
    groups.into_iter().map(finding).collect()
}

/// `process 12`, `processes 12, 14`.
pub(super) fn processes(ids: impl ExactSizeIterator<Item = u32>) -> String {
    let word = if ids.len() == 1 {
        "process"
    } else {
        "processes"
    };
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    format!("{word} {}", ids.join(", "))
}

/// Everything was let pass, on purpose.
fn broken_glass(lens: &Lens<'_>) -> Option<Finding> {
    let reason = lens.facts.break_glass.as_ref()?;
    let title = format!("nothing was refused, the glass was broken: {reason}");
    let found = Finding::new("break_glass", Severity::Warning, &title, &["", "", ""]);
    Some(Finding {
        reason: Some(printable(reason)),
        ..found
    })
}

/// Waivers whose last day was over when the run began.
fn expired(lens: &Lens<'_>) -> Vec<Finding> {
    let waivers = lens.facts.policy.map_or(&[][..], |policy| &policy.expired);
    let finding = |waiver: &Rule| {
        let until = waiver.expires.as_deref().unwrap_or("a day that is over");
        let place = format!("{}:{}", waiver.file, waiver.line);
        let title = format!("the {} expired on {until}", waiver.text);
        let about = [&*waiver.text, until, ""];
        Finding {
            owner: said(waiver.owner.as_deref()),
            rule: Some(waiver.text.to_string()),
            reason: said(waiver.reason.as_deref()),
            fix: Some(printable(&format!(
                "remove it from {place}, or give it a new day if it is still needed"
            ))),
            ..Finding::new("waiver_expired", Severity::Warning, &title, &about)
        }
    };
    waivers.iter().map(finding).collect()
}

/// What was to be followed, and did not start.
fn unfollowed(lens: &Lens<'_>) -> Vec<Finding> {
    let finding = |unit: &String| {
        let title = format!("{unit}, which the policy follows, did not start while the run was on");
        Finding {
            fix: Some("remove it from `follow:` if this run does not start it".to_owned()),
            ..Finding::new("not_followed", Severity::Info, &title, &[unit, "", ""])
        }
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
pub(super) fn said(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}
