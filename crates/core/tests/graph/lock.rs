//! The egress lockfile, compared with what runs reached.

use blackstart_core::graph::{Found, directory_of_command};
use blackstart_core::lock::{Lock, Places};
use blackstart_core::report::{Followed, Report, Verdict};

use proptest::prelude::*;

use super::story::{Story, deploy};

fn lock(destinations: &str) -> Lock {
    Lock::parse(&format!(
        "{{\"version\": 1, \"destinations\": {{{destinations}}}, \"executables\": {{}}}}"
    ))
    .unwrap()
}

fn told(lock: &Lock, story: &Story) -> Vec<String> {
    let places = Places {
        started_in: None,
        beside: None,
    };
    let now = Lock::of(&story.0, places, &mut |_| None);
    let found = lock.compare(&now, &story.0, places);
    found.into_iter().map(|finding| finding.title).collect()
}

/// A process of its own kind, as number 2.
fn tool() -> Story {
    deploy().process(1, "/usr/bin/tool", &["tool"])
}

#[test]
fn a_name_server_is_known_by_its_address() {
    let nothing = lock("");
    let at_53 = |address: &str, change: &dyn Fn(&mut Report)| {
        let story = tool().reaches(2, "", address, 53).with(change);
        told(&nothing, &story)
    };
    let new = |address: &str| {
        vec![format!(
            "/usr/bin/tool, which the lock does not have, newly contacts {address}:53/tcp"
        )]
    };
    let resolver = |report: &mut Report| {
        report.run.resolvers = vec!["192.0.2.53".parse().unwrap()];
    };
    assert_eq!(at_53("192.0.2.53", &resolver), [""; 0]);
    assert_eq!(at_53("::ffff:192.0.2.53", &resolver), [""; 0]);
    // A way out that only looks like a lookup.
    assert_eq!(at_53("198.51.100.9", &resolver), new("198.51.100.9"));
    // In a report that does not know its resolvers it may be one.
    assert_eq!(at_53("198.51.100.9", &|_| ()), [""; 0]);
    let rule = |report: &mut Report| {
        resolver(report);
        report.flows[0].rule = "built-in: own resolver".to_owned();
    };
    assert_eq!(at_53("198.51.100.9", &rule), [""; 0]);
}

#[test]
fn a_unit_that_started_by_itself_is_not_locked() {
    let followed = |asked: &[&str]| {
        let unit = Followed {
            unit: "db.service".to_owned(),
            subject: Some(2),
            cgroup: "/system.slice/db.service".to_owned(),
            asked: Some(asked.iter().map(|path| (*path).to_owned()).collect()),
            started: "2026-11-28T10:00:00.000000Z".to_owned(),
            ended: None,
            until: None,
            at_once: false,
        };
        let story = deploy()
            .process(0, "unit:db.service", &[])
            .process(2, "/usr/bin/tool", &["tool"])
            .reaches(3, "github.com", "192.0.2.1", 443)
            .with(|report| report.run.followed = vec![unit.clone()]);
        told(&lock(""), &story)
    };
    assert_eq!(
        followed(&["/run/systemd/private"]),
        ["/usr/bin/tool, which the lock does not have, newly contacts github.com:443/tcp"]
    );
    assert_eq!(followed(&[]), [""; 0]);
}

#[test]
fn a_name_that_was_refused_was_reached_for() {
    let refused = tool().asks(2, "github.com", Verdict::Deny, &[]);
    assert_eq!(
        told(&lock(""), &refused),
        ["/usr/bin/tool, which the lock does not have, newly contacts github.com"]
    );
    // The lock has it for this tool, at whatever port; or for another.
    let known = lock(
        "\"github.com:443/tcp\": [\"/usr/bin/tool\"], \"github.com:22/tcp\": [\"/usr/bin/git\"]",
    );
    assert_eq!(told(&known, &refused), [""; 0]);
    let other = lock("\"github.com:443/tcp\": [\"/usr/bin/git\"]");
    assert_eq!(
        told(&other, &refused),
        ["/usr/bin/tool, which the lock does not have, contacts, as others did before, github.com"]
    );
    // A longer name is another one.
    let longer = lock("\"api.github.com:443/tcp\": [\"/usr/bin/tool\"]");
    let found = told(&longer, &refused);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].starts_with("the lock has api.github.com:443/tcp, and this run did not"));
    // What passed was for what followed.
    let passed = tool()
        .asks(2, "github.com", Verdict::Allow, &[])
        .asks(2, "example.com", Verdict::Deny, &[])
        .meets(2, "example.com", "192.0.2.1", 443, Verdict::Deny);
    assert_eq!(
        told(&lock(""), &passed),
        ["/usr/bin/tool, which the lock does not have, newly contacts example.com:443/tcp"]
    );
    // It is no dependency that is there to be kept.
    let places = Places {
        started_in: None,
        beside: None,
    };
    assert_eq!(Lock::of(&refused.0, places, &mut |_| None), lock(""));
}

#[test]
fn it_lies_beside_what_the_deployment_brings() {
    let directory = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        directory_of_command(&words, "/home/x", &mut |path| match path {
            "/home/x/deploy.sh" | "/srv/d/deploy.sh" | "/bin/bash" | "/usr/local/bin/tool" => {
                Found::Program
            }
            "/home/x/d/text.sh" | "/home/x/data.json" | "/usr/share/x/run.py" => Found::Text,
            _ => Found::Nothing,
        })
    };
    for (line, wanted) in [
        ("./deploy.sh", Some("/home/x")),
        ("../../srv/d/deploy.sh -x", Some("/srv/d")),
        ("bash ./deploy.sh", Some("/home/x")),
        ("bash deploy.sh", Some("/home/x")),
        ("/bin/bash -eu d/text.sh", Some("/home/x/d")),
        ("env A=1 bash /srv/d/deploy.sh", Some("/srv/d")),
        ("sudo -u db ./deploy.sh", Some("/home/x")),
        ("sh -c ./deploy.sh", Some("/home/x")),
        // Installed, or no program at all.
        ("/bin/bash", None),
        ("/usr/local/bin/tool", None),
        ("/usr/local/bin/tool ./data.json", None),
        ("python3 /usr/share/x/run.py", None),
        ("tool apply", None),
        ("./absent.sh", None),
        ("d/text.sh", None),
    ] {
        assert_eq!(directory(line).as_deref(), wanted, "{line}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_lock_or_is_not(text in prop_oneof![
        ".{0,200}",
        "(\\{|\\}|\\[|\\]|,|:|\"version\"|\"destinations\"|\"executables\"|\"a:1/tcp\"|\"b\"|1|2|99|null|-1| ){0,40}",
    ]) {
        if let Ok(lock) = Lock::parse(&text) {
            prop_assert_eq!(Lock::parse(&lock.text()), Ok(lock.clone()));
            // However its destinations are written, it can be compared with a run.
            let refused = tool().asks(2, "a", Verdict::Deny, &[]).reaches(2, "b", "::1", 0);
            let _findings = told(&lock, &refused);
        }
    }

    #[test]
    fn a_lock_with_any_texts_is_compared(
        destinations in prop::collection::btree_map(".{0,12}", prop::collection::btree_set(".{0,6}", 0..3), 0..5),
        name in "[a.:/é-]{1,5}",
    ) {
        let text = serde_json::json!({ "version": 1, "destinations": destinations, "executables": {} });
        let lock = Lock::parse(&text.to_string()).unwrap();
        let _findings = told(&lock, &tool().asks(2, &name, Verdict::Deny, &[]));
    }
}
