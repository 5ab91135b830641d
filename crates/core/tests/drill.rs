//! What the outage of a service denies.

use blackstart_core::catalog;
use blackstart_core::drill::{Drill, Fault, Unplayable};
use blackstart_core::policy::{Failure, PortRange, Rank};

const CATALOG: &str = "\
apiVersion: blackstart.dev/v1
kind: Service
name: github
owner: team-git
provides: [.github.com, 10.0.0.0/24, 'unix:/run/g.sock']
---
apiVersion: blackstart.dev/v1
kind: Service
name: builds
provides: ['builds.internal:8080']
needs: [github]
---
apiVersion: blackstart.dev/v1
kind: Service
name: quiet
needs: [builds]
---
apiVersion: blackstart.dev/v1
kind: Service
name: other
provides: [other.internal]
needs: [{ service: github, for: deploy }]
";

fn drill(down: &[&str], fault: Fault) -> Drill {
    Drill {
        down: down.iter().map(|name| (*name).to_owned()).collect(),
        fault,
    }
}

#[test]
fn everything_that_cannot_serve_is_denied_each_in_its_way() {
    let reading = catalog::read(&[("c.yaml", CATALOG)]);
    let texts = |fault| -> Vec<(String, Option<PortRange>, Failure)> {
        let denials = drill(&["github"], fault).denials(&reading).unwrap();
        assert_eq!(denials.silent, ["quiet"]);
        let rules = denials.rules.iter();
        assert!(rules.clone().all(|rule| rule.rank == Rank::Final));
        rules
            .map(|rule| (rule.text.to_string(), rule.ports, rule.failure))
            .collect()
    };
    let only = |port| {
        Some(PortRange {
            first: port,
            last: port,
        })
    };
    let all = Some(PortRange::ALL);
    let names = [
        "deny .github.com (down: github)",
        "deny 10.0.0.0/24 (down: github)",
        "deny builds.internal:8080 (down: builds → github)",
        "deny unix:/run/g.sock (down: github)",
    ];
    let of = |name: &str, ports, failure| (name.to_owned(), ports, failure);
    let refuse = Failure::REFUSE;
    assert_eq!(
        texts(Fault::Refuse),
        [
            of(names[0], all, refuse),
            of(names[1], None, refuse),
            of(names[2], only(8080), refuse),
            of(names[3], None, refuse),
        ]
    );
    let lost = Failure::Blackhole;
    assert_eq!(
        texts(Fault::Blackhole),
        [
            of(names[0], all, lost),
            of(names[1], None, lost),
            of(names[2], only(8080), lost),
            of(names[3], None, refuse),
        ]
    );
    assert_eq!(
        texts(Fault::Nxdomain),
        [
            of(names[0], None, refuse),
            of(names[1], None, refuse),
            of("deny builds.internal (down: builds → github)", None, refuse),
            of(names[3], None, refuse),
        ]
    );
    let rules = drill(&["github"], Fault::Refuse)
        .denials(&reading)
        .unwrap()
        .rules;
    assert_eq!((&*rules[0].file, rules[0].line), ("c.yaml", 5));
    assert_eq!(rules[0].owner.as_deref(), Some("team-git"));
}

#[test]
fn a_drill_that_would_show_nothing_is_none() {
    let reading = catalog::read(&[("c.yaml", CATALOG)]);
    let wrong = |down: &[&str]| drill(down, Fault::Refuse).denials(&reading).unwrap_err();
    let told = wrong(&["githup", "nobody"]);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].remedy(), "did you mean \"github\"?");
    assert_eq!(wrong(&["quiet"]), [Unplayable::Silent("quiet".to_owned())]);
    let broken = catalog::read(&[("c.yaml", "kind: Servce\n")]);
    assert!(matches!(
        drill(&["github"], Fault::Refuse)
            .denials(&broken)
            .unwrap_err()[..],
        [Unplayable::Partial(_)]
    ));
}
