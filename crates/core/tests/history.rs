//! Policies from the past, and policies held against it.

use std::net::IpAddr;
use std::sync::Arc;

use blackstart_core::history::backtest::{Act, Backtest, Difference};
use blackstart_core::history::learn::{Learned, Learner};
use blackstart_core::history::promote::{Advice, Promotion};
use blackstart_core::history::replay::{Replay, Replayed};
use blackstart_core::history::{
    Ancestry, Answer, Asked, Contacted, LineageId, Micros, Past, Reached, Surroundings,
};
use blackstart_core::policy::{Policy, Rung, alone};
use blackstart_core::record::{Attribution, Verdict};
use blackstart_core::report::{Mode, rule_text};
use proptest::prelude::*;

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";
const DAY: Micros = 86_400_000_000;
/// 2026-11-01
const START: Micros = 1_793_491_200_000_000;

fn policy(text: &str) -> Policy {
    alone(&format!("{HEAD}{text}"), "p.yaml").unwrap().policy
}

/// The `n`th run, one each day.
fn run(n: i64) -> Past {
    Past {
        id: format!("run-{n}"),
        service: Some("mysql".into()),
        host: "db1".into(),
        started: START + n * DAY,
        drill: false,
        attached: false,
        lacks: [].into(),
        around: Arc::new(Surroundings {
            own: vec![ip("10.0.0.9")],
            resolvers: vec![ip("10.0.0.53")],
            search: vec!["corp.example".to_owned()],
        }),
        lookups: Vec::new(),
        flows: Vec::new(),
        contacts: Vec::new(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asked(past: &Past, name: &str, addresses: &[&str], by: LineageId) -> Asked {
    Asked {
        name: name.into(),
        qtype: "A".into(),
        by,
        subject: Some(1),
        verdict: Verdict::Allow,
        rule: "default".into(),
        queries: 1,
        first: past.started,
        last: past.started,
        answer: Arc::new(Answer {
            addresses: addresses.iter().map(|it| ip(it)).collect(),
            chain: Vec::new(),
        }),
    }
}

fn reached(past: &Past, name: Option<&str>, address: &str, port: u16, by: LineageId) -> Reached {
    Reached {
        name: name.map(Arc::from),
        address: ip(address),
        port,
        protocol: "tcp".into(),
        by,
        subject: Some(1),
        verdict: Verdict::Allow,
        rule: "default".into(),
        attempts: 1,
        first: past.started + 1,
        last: past.started + 1,
        attribution: Attribution::Exact,
        probe: false,
    }
}

/// It looked the name up and went there.
fn went(past: &mut Past, name: &str, address: &str, port: u16, by: LineageId) {
    let it = asked(past, name, &[address], by);
    past.lookups.push(it);
    let it = reached(past, Some(name), address, port, by);
    past.flows.push(it);
}

fn replay(text: &str, past: &Past, ancestry: &Ancestry) -> (Replayed, Policy) {
    let policy = policy(text);
    let replayed = Replay::new(&policy).unwrap().of(past, ancestry).unwrap();
    (replayed, policy)
}

fn verdicts(replayed: &Replayed) -> Vec<Option<Verdict>> {
    replayed.flows.iter().map(|it| it.map(|it| it.0)).collect()
}

fn learned(pasts: &[Past], ancestry: &Ancestry) -> Learned {
    let mut learner = Learner::default();
    pasts.iter().for_each(|past| learner.add(past, ancestry));
    learner.learned()
}

/// What a learned policy refuses of the runs that it was learned from, enforced.
fn refused(learned: &Learned, pasts: &[Past], ancestry: &Ancestry) -> u64 {
    let text = learned.text("mysql", "2026-11-28", 0);
    let mut policy = alone(&text, "learned.yaml")
        .unwrap_or_else(|wrong| panic!("{wrong:?}\n{text}"))
        .policy;
    policy.mode = Mode::Enforce;
    let mut replay = Replay::new(&policy).unwrap();
    let mut test = Backtest::default();
    for past in pasts {
        test.add(past, &replay.of(past, ancestry).unwrap());
    }
    test.refused
}

fn allows(learned: &Learned) -> Vec<&str> {
    learned
        .rules
        .iter()
        .map(|rule| rule.allow.as_str())
        .collect()
}

#[test]
fn a_connection_is_judged_with_the_leases_that_the_run_had() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    went(&mut past, "api.github.com", "10.1.0.1", 443, 0);
    past.flows.push(reached(&past, None, "10.1.0.1", 443, 0));
    past.flows.push(reached(&past, None, "10.2.0.1", 443, 0));
    // By the name, and by what of the name's addresses was reached without asking.
    let (by_name, policy) = replay(
        "mode: enforce\ndefault: deny\nrules:\n  - allow: api.github.com:443\n",
        &past,
        &ancestry,
    );
    use Verdict::{Allow, Deny};
    assert_eq!(by_name.lookups[0].0, Allow);
    assert_eq!(verdicts(&by_name), [Some(Allow), Some(Allow), Some(Deny)]);
    let rule = by_name.flows[0].unwrap().1;
    assert_eq!(rule_text(Some(&policy), rule), "allow api.github.com:443");
    // A lease that came after the attempt is none.
    past.lookups[0].first = past.flows[1].last + 1;
    past.flows[0].last = past.lookups[0].first;
    let late = replay(
        "mode: enforce\ndefault: deny\nrules:\n  - allow: api.github.com:443\n",
        &past,
        &ancestry,
    );
    assert_eq!(verdicts(&late.0), [Some(Allow), Some(Deny), Some(Deny)]);
}

#[test]
fn what_follows_a_refused_lookup_does_not_come_to_pass() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    went(&mut past, "api.github.com", "10.1.0.1", 443, 0);
    past.flows
        .push(reached(&past, Some("fixed.example.com"), "10.3.0.1", 80, 0));
    let (refused, _) = replay(
        "mode: enforce\nrules:\n  - deny: .github.com\n  - deny: fixed.example.com\n",
        &past,
        &ancestry,
    );
    assert_eq!(refused.lookups[0].0, Verdict::Deny);
    // A name of /etc/hosts is asked of nobody.
    assert_eq!(verdicts(&refused), [None, Some(Verdict::Deny)]);
    // Observed, it does.
    let (observed, _) = replay("rules:\n  - deny: .github.com\n", &past, &ancestry);
    assert_eq!(verdicts(&observed)[0], Some(Verdict::WouldDeny));
}

#[test]
fn a_name_on_the_way_counts_as_the_run_met_it() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    went(&mut past, "mirror.example.com", "10.1.0.1", 443, 0);
    let mut answer = (*past.lookups[0].answer).clone();
    answer.chain = vec!["edge.github.com".into()];
    past.lookups[0].answer = Arc::new(answer);
    let (replayed, _) = replay(
        "mode: enforce\nrules:\n  - deny: .github.com\n",
        &past,
        &ancestry,
    );
    assert_eq!(replayed.lookups[0].0, Verdict::Allow);
    assert_eq!(verdicts(&replayed), [Some(Verdict::Deny)]);
}

#[test]
fn a_rule_about_a_program_asks_who_it_was() {
    let mut ancestry = Ancestry::default();
    let exe = |text: &str| Arc::<str>::from(text);
    let deploy = ancestry.below(0, &exe("/opt/deploy.sh"));
    let curl = ancestry.below(deploy, &exe("/usr/bin/curl"));
    let other = ancestry.below(0, &exe("/usr/bin/curl"));
    let mut past = run(0);
    for by in [curl, other, deploy] {
        past.flows.push(reached(&past, None, "10.1.0.1", 443, by));
    }
    let of = |process: &str| {
        let text = format!("mode: enforce\nrules:\n  - deny: 10.1.0.1\n    process: {process}\n");
        verdicts(&replay(&text, &past, &ancestry).0)
    };
    use Verdict::{Allow, Deny};
    assert_eq!(of("curl"), [Some(Deny), Some(Deny), Some(Allow)]);
    assert_eq!(
        of("ancestor:deploy.sh"),
        [Some(Deny), Some(Allow), Some(Deny)]
    );
}

#[test]
fn what_a_followed_unit_does_is_judged_by_no_policy() {
    let mut ancestry = Ancestry::default();
    let script = ancestry.below(0, &"./deploy.sh".into());
    let curl = ancestry.below(script, &"/usr/bin/curl".into());
    let unit = ancestry.below(0, &"unit:db.service".into());
    let start = ancestry.below(unit, &"/usr/bin/curl".into());
    let mut past = run(0);
    went(&mut past, "github.com", "10.1.0.1", 443, curl);
    went(&mut past, "other.example", "10.1.0.2", 443, start);
    let policy = "mode: enforce\ndefault: deny\n";
    let (replayed, _) = replay(policy, &past, &ancestry);
    assert_eq!(verdicts(&replayed), [None, Some(Verdict::Allow)]);
    assert_eq!(replayed.lookups[1].0, Verdict::Allow);
    assert_eq!(replayed.lookups[0].0, Verdict::Deny);
    let learned = learned(&[past], &ancestry);
    assert_eq!(allows(&learned), ["github.com:443"]);
}

#[test]
fn what_a_policy_needs_no_rule_for_needs_none() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    past.flows.push(reached(&past, None, "127.0.0.1", 3306, 0));
    past.flows.push(reached(&past, None, "10.0.0.9", 3306, 0));
    let mut dns = reached(&past, None, "10.0.0.53", 53, 0);
    // Over TCP the forwarder reads it.
    past.flows.push(dns.clone());
    dns.protocol = "udp".into();
    past.flows.push(dns);
    past.lookups.push(asked(&past, "db.corp.example", &[], 0));
    past.contacts.push(Contacted {
        path: "/run/nscd/socket".into(),
        by: 0,
        subject: None,
        verdict: Verdict::Deny,
        rule: "built-in: resolver socket".into(),
        attempts: 1,
    });
    let found = learned(std::slice::from_ref(&past), &ancestry);
    assert!(found.rules.is_empty(), "{found:?}");
    assert_eq!(refused(&found, &[past], &ancestry), 0);
}

#[test]
fn a_rule_is_about_a_name_where_there_is_one_and_has_its_evidence() {
    let mut ancestry = Ancestry::default();
    let curl = ancestry.below(0, &"/usr/bin/curl".into());
    let mut pasts: Vec<Past> = (0..3).map(run).collect();
    for (n, past) in pasts.iter_mut().enumerate() {
        // Ever another address.
        went(
            past,
            "mirror.example.com",
            &format!("10.1.0.{n}"),
            443,
            curl,
        );
    }
    went(&mut pasts[1], "mirror.example.com", "10.1.0.7", 80, curl);
    let mut direct = reached(&pasts[2], None, "2001:db8::7", 5432, curl);
    direct.attribution = Attribution::Unnamed;
    pasts[2].flows.push(direct);
    let found = learned(&pasts, &ancestry);
    assert_eq!(
        allows(&found),
        [
            "[2001:db8::7]:5432",
            "mirror.example.com:443",
            "mirror.example.com:80"
        ]
    );
    assert_eq!(found.rules[1].evidence.runs, 3);
    assert_eq!(refused(&found, &pasts, &ancestry), 0);
    insta::assert_snapshot!(found.text("mysql", "2026-11-28", 0));
}

#[test]
fn what_some_policy_denied_is_left_out_and_what_lacks_is_told() {
    let ancestry = Ancestry::default();
    let mut pasts: Vec<Past> = (0..4).map(run).collect();
    // Once nobody minded.
    went(&mut pasts[0], "api.github.com", "10.1.0.1", 443, 0);
    let mut denied = asked(&pasts[1], "api.github.com", &[], 0);
    (denied.verdict, denied.rule) = (Verdict::WouldDeny, "deny .github.com".into());
    pasts[1].lookups.push(denied);
    // By a default only, and for the record: that is what is to be learned.
    went(&mut pasts[2], "new.example.com", "10.2.0.1", 443, 0);
    pasts[2].lookups[0].verdict = Verdict::WouldDeny;
    pasts[2].flows[0].verdict = Verdict::WouldDeny;
    let mut waived = reached(&pasts[2], None, "10.3.0.1", 22, 0);
    (waived.verdict, waived.rule) = (Verdict::Waived, "waiver for 10.3.0.1".into());
    pasts[2].flows.push(waived);
    // What an outage that was played refused says nothing.
    pasts[3].drill = true;
    let mut played = reached(&pasts[3], None, "10.4.0.1", 22, 0);
    (played.verdict, played.rule) = (Verdict::Deny, "deny service:backup".into());
    pasts[3].flows.push(played);
    pasts[3].lacks = ["1 attempt was lost".to_owned()].into();
    let found = learned(&pasts, &ancestry);
    assert_eq!(allows(&found), ["new.example.com:443"]);
    let left: Vec<_> = found
        .left_out
        .iter()
        .map(|(left, _)| (left.destination.as_str(), left.verdict))
        .collect();
    assert_eq!(
        left,
        [
            ("10.3.0.1:22", Verdict::Waived),
            ("api.github.com", Verdict::WouldDeny)
        ]
    );
    assert_eq!(found.lacking_runs, 1);
    insta::assert_snapshot!(found.text(
        "my \"sql\"",
        "2026-11-28",
        refused(&found, &pasts, &ancestry)
    ));
}

#[test]
fn names_are_one_rule_only_where_runs_keep_bringing_new_ones() {
    let ancestry = Ancestry::default();
    // Each run has two names of its own below one; those below another are always the same.
    let mut pasts: Vec<Past> = (0..5).map(run).collect();
    for (n, past) in pasts.iter_mut().enumerate() {
        for half in 0..2 {
            let name = format!("part-{}.cdn.example.com", 2 * n + half);
            went(past, &name, "10.1.0.1", 443, 0);
        }
        for same in 0..8 {
            let name = format!("host-{same}.fixed.example.com");
            went(past, &name, "10.2.0.1", 443, 0);
        }
        // And those below a public suffix are strangers'.
        went(past, &format!("team-{n}.co.uk"), "10.3.0.1", 443, 0);
    }
    let found = learned(&pasts, &ancestry);
    let of = |part: &str| {
        let all = allows(&found).into_iter().filter(|it| it.contains(part));
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("cdn"), ["*.cdn.example.com:443"]);
    assert_eq!(of("fixed").len(), 8);
    assert_eq!(of("co.uk").len(), 5);
    assert!(of("team").iter().all(|it| !it.starts_with('*')));
    assert_eq!(refused(&found, &pasts, &ancestry), 0);
    // Four runs' worth of them is less than three that brought new ones.
    let few = learned(&pasts[..3], &ancestry);
    assert_eq!(
        few.rules
            .iter()
            .filter(|it| it.allow.starts_with('*'))
            .count(),
        0
    );
}

#[test]
fn a_name_that_cannot_stand_in_a_rule_is_told() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    went(&mut past, "odd name\n.example.com", "10.1.0.1", 443, 0);
    past.lookups.push(asked(&past, "co.uk", &[], 0));
    let found = learned(std::slice::from_ref(&past), &ancestry);
    assert_eq!(allows(&found), ["10.1.0.1:443"]);
    assert_eq!(found.unwritten.len(), 2, "{:?}", found.unwritten);
    let text = found.text("mysql", "2026-11-28", 1);
    assert!(!text.contains("odd name\n"), "{text}");
    alone(&text, "learned.yaml").unwrap();
}

#[test]
fn a_backtest_counts_what_is_refused_and_in_how_many_runs() {
    let mut ancestry = Ancestry::default();
    let curl = ancestry.below(0, &"/usr/bin/curl".into());
    let mut pasts: Vec<Past> = (0..4).map(run).collect();
    for past in &mut pasts[..2] {
        went(past, "api.github.com", "10.1.0.1", 443, curl);
        past.lookups[0].queries = 2;
    }
    let literal = reached(&pasts[2], None, "10.2.0.1", 22, curl);
    pasts[2].flows.push(literal);
    let policy = policy(
        "mode: enforce\nrules:\n  - deny: .github.com\n  - deny: 10.2.0.1\n    mode: observe\n",
    );
    let mut replay = Replay::new(&policy).unwrap();
    let mut test = Backtest::default();
    for past in &pasts {
        test.add(past, &replay.of(past, &ancestry).unwrap());
    }
    assert_eq!((test.runs, test.attempts), (4, 7));
    assert_eq!((test.refused, test.runs_refused), (4, 2));
    assert_eq!((test.observed, test.cut_short), (1, 0));
    let groups = test.into_groups(&ancestry);
    let told: Vec<_> = groups
        .iter()
        .map(|(alike, ruled)| (alike.act, alike.destination.as_str(), ruled.0, alike.runs))
        .collect();
    assert_eq!(
        told,
        [
            (Act::Lookup, "api.github.com", Verdict::Deny, 2),
            (Act::Connect, "10.2.0.1:22", Verdict::WouldDeny, 1)
        ]
    );
    assert_eq!(groups[0].0.run, "run-1", "the latest one");
}

#[test]
fn policies_differ_by_what_they_do() {
    let ancestry = Ancestry::default();
    let mut past = run(0);
    went(&mut past, "api.github.com", "10.1.0.1", 443, 0);
    past.flows.push(reached(&past, None, "10.2.0.1", 22, 0));
    let compare = |old: &str, new: &str| {
        let (old, new) = (policy(old), policy(new));
        let mut of_old = Replay::new(&old).unwrap();
        let mut of_new = Replay::new(&new).unwrap();
        let mut difference = Difference::default();
        difference.add(
            &past,
            &of_old.of(&past, &ancestry).unwrap(),
            &of_new.of(&past, &ancestry).unwrap(),
        );
        difference
    };
    // Written otherwise, with the same effect.
    let same = compare(
        "mode: enforce\nrules: [deny: .github.com]\n",
        "mode: enforce\nrules: [deny: api.github.com, deny: other.example]\n",
    );
    assert_eq!((same.changed, same.attempts), (0, 3));
    let other = compare(
        "mode: enforce\nrules: [deny: .github.com]\n",
        "mode: enforce\nrules: [deny: 10.2.0.1]\n",
    );
    assert_eq!((other.changed, other.runs_changed), (2, 1));
    let told: Vec<_> = other
        .into_groups(&ancestry)
        .into_iter()
        .map(|(alike, change)| (alike.destination, change.before.0, change.after.0))
        .collect();
    use Verdict::{Allow, Deny};
    assert_eq!(
        told,
        [
            ("api.github.com".to_owned(), Deny, Allow),
            ("10.2.0.1:22".to_owned(), Allow, Deny)
        ]
    );
}

/// Names, some of them below the search list or a common name, addresses, and ports of a run.
fn story() -> impl Strategy<Value = Vec<(Option<String>, u8, u16, bool, bool)>> {
    let name = prop::option::of(prop_oneof![
        "[a-c]\\.example\\.com",
        "[a-z]{1,3}\\.cdn\\.example\\.com",
        "[a-c]\\.corp\\.example",
        "[a-c]",
    ]);
    let one = (name, any::<u8>(), 0_u16..600, any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..20)
}

proptest! {
    #[test]
    fn a_learned_policy_refuses_nothing_that_it_was_learned_from(stories in prop::collection::vec(story(), 1..6)) {
        let ancestry = Ancestry::default();
        let pasts: Vec<Past> = stories
            .into_iter()
            .zip(0..)
            .map(|(story, n)| {
                let mut past = run(n);
                for (name, last, port, udp, connects) in story {
                    let address = format!("10.7.0.{last}");
                    if let Some(name) = &name {
                        let addresses: Vec<&str> = connects.then_some(&*address).into_iter().collect();
                        let it = asked(&past, name, &addresses, 0);
                        past.lookups.push(it);
                    }
                    if connects {
                        let mut flow = reached(&past, name.as_deref(), &address, port, 0);
                        if udp {
                            flow.protocol = "udp".into();
                        }
                        past.flows.push(flow);
                    }
                }
                past
            })
            .collect();
        let found = learned(&pasts, &ancestry);
        prop_assert_eq!(refused(&found, &pasts, &ancestry), 0, "{}", found.text("mysql", "2026-11-28", 0));
    }
}

/// What becomes of each rule that denies, quiet meaning since the day `since`.
fn advised(text: &str, pasts: &[Past], ancestry: &Ancestry, since: i64) -> Vec<(String, Advice)> {
    let now = policy(text);
    let mut promotion = Promotion::new(&now, START + since * DAY);
    let mut enforced = now.clone();
    enforced.mode = Mode::Enforce;
    for rule in &mut enforced.rules {
        rule.mode = Mode::Enforce;
    }
    let mut replay = Replay::new(&enforced).unwrap();
    for past in pasts {
        promotion.add(past, &replay.of(past, ancestry).unwrap());
    }
    let advice = promotion.advice();
    advice.map(|(rule, it)| (rule.text.clone(), it)).collect()
}

#[test]
fn a_rule_goes_up_when_whole_runs_were_quiet_for_long_enough() {
    let ancestry = Ancestry::default();
    let rules = "rules:\n  - deny: early.example\n  - deny: late.example\n    mode: enforce\n  - deny: never.example\n    mode: enforce\n  - deny: top.example\n    mode: enforce\n    reaction: fail\n  - allow: x.example\n  - deny: fails.example\n    reaction: fail\n";
    let mut pasts: Vec<Past> = (0..20).map(run).collect();
    went(&mut pasts[3], "early.example", "10.1.0.1", 443, 0);
    went(&mut pasts[15], "late.example", "10.1.0.2", 443, 0);
    let what = |pasts: &[Past], since| -> Vec<Advice> {
        let advised = advised(rules, pasts, &ancestry, since);
        assert_eq!(advised.len(), 5, "an allow has no rungs");
        advised.into_iter().map(|(_, it)| it).collect()
    };
    use Advice::{AtTop, NoRun, NotQuiet, Promote, TooShort};
    assert_eq!(
        what(&pasts, 6),
        [
            Promote(Rung::Warn),
            NotQuiet,
            Promote(Rung::Fail),
            AtTop,
            Promote(Rung::Fail)
        ]
    );
    // It was met within the time.
    assert_eq!(what(&pasts, 3)[0], NotQuiet);
    // The first run is too short ago, and so is the first that was seen as a whole.
    assert_eq!(what(&pasts, -1)[2], TooShort(START));
    let mut half = pasts.clone();
    for past in &mut half[..10] {
        past.lacks = ["1 attempt was lost".to_owned()].into();
    }
    assert_eq!(what(&half, 6)[2], TooShort(START + 10 * DAY));
    // An attempt counts, whatever else is not known of its run.
    half[15].lacks = ["x".to_owned()].into();
    assert_eq!(what(&half, 11)[1], NotQuiet);
    // Runs that show nothing: before the time only, incomplete, or with an outage played.
    assert_eq!(what(&pasts[..5], 6)[2], NoRun);
    let mut played = pasts.clone();
    played[6..].iter_mut().for_each(|past| past.drill = true);
    assert_eq!(what(&played, 6)[2], NoRun);
    assert_eq!(what(&[], 6)[2], NoRun);
}
