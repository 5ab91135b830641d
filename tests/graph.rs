//! The circles of GitHub's example, from live runs: each of its kind, and the host's own database none at all.

use std::collections::BTreeSet;

use blackstart_core::report::Finding;
use blackstart_lab::demo::{self, deploy, example};
use blackstart_lab::{Guarded, World};
use serde_json::Value;

fn kinds(run: &Guarded) -> BTreeSet<(String, String)> {
    let of = |finding: &&Finding| {
        let circle = finding.circle.as_ref().expect("a loop has its steps");
        assert_eq!(circle.steps.first().unwrap().from, "mysql");
        assert_eq!(circle.steps.last().unwrap().to, "mysql");
        assert!(circle.shortest);
        (circle.kind.clone(), circle.steps[0].to.clone())
    };
    run.findings("loop").iter().map(of).collect()
}

#[test]
fn each_kind_is_told_and_what_follows_from_it() {
    let world = demo::world("graph");
    let (run, observed, _) = deploy(&world, "observe");
    let run = run.exits(0);
    let of = |kind: &str, service: &str| (kind.to_owned(), service.to_owned());
    let wanted = BTreeSet::from([
        of("direct", "github"),
        of("hidden", "github"),
        of("transient", "migrations"),
    ]);
    assert_eq!(kinds(&run), wanted, "{:#?}", run.findings("loop"));
    let loops = run.findings("loop");
    let by = |kind: &str| {
        let finding = loops
            .iter()
            .find(|f| f.circle.as_ref().unwrap().kind == kind)
            .unwrap();
        let subject = *finding.subjects.first().unwrap();
        let subjects = &run.report().subjects;
        let subject = subjects.iter().find(|s| s.id == subject).unwrap();
        subject.argv.join(" ")
    };
    assert!(by("hidden").contains("schema-check"), "{}", by("hidden"));
    assert!(by("transient").contains("migrations.internal"));
    assert_eq!(run.report().run.owner.as_deref(), Some("team-db"));
    let run = run
        .warns("circular dependencies")
        .warns("the deploy of mysql needs migrations, which needs github, which needs mysql");
    drop(run);

    // Refused, the same deployment fails: what it could not do without is known from here on.
    let (refused, enforced, _) = deploy(&world, "enforce");
    let refused = refused.exits(1);
    assert_eq!(kinds(&refused), wanted);

    let catalog = example("catalog");
    let (observed, enforced) = (
        observed.display().to_string(),
        enforced.display().to_string(),
    );
    let graph = |words: &[&str], code: i32| -> Value {
        let mut line = vec!["graph", words[0], "--catalog", &catalog];
        line.extend(["--runs", &observed, &enforced, "--format", "json"]);
        line.extend(&words[1..]);
        let ended = world.guard().blackstart(&line);
        assert_eq!(ended.code, code, "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
    };
    let show = graph(&["show", "mysql"], 0);
    let itself = show["services"][0]["self"].as_array().unwrap();
    assert!(
        itself
            .iter()
            .any(|contact| contact["destination"] == "localhost:3306"),
        "{itself:#?}"
    );
    let found = graph(&["loops"], 0);
    assert_eq!(found["loops"].as_array().unwrap().len(), 2, "{found:#}");
    let order = graph(&["order"], 0);
    assert_eq!(
        order["components"],
        serde_json::json!([["github", "migrations", "mysql"]])
    );
    let levels = order["levels"].as_array().unwrap();
    assert_eq!(levels[0], serde_json::json!(["metrics", "mirror"]));
    let cuts = order["cuts"][0]["needs"].as_array().unwrap();
    assert_eq!(
        (cuts.len(), &order["cuts"][0]["smallest"]),
        (1, &true.into())
    );

    let impact = graph(&["impact", "github"], 0);
    assert_eq!(impact["down"], serde_json::json!(["github"]));
    assert_eq!(
        impact["perhaps_down"],
        serde_json::json!(["migrations", "mysql"][..1])
    );
    let of_mysql = impact["deploys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|deploy| deploy["service"] == "mysql")
        .unwrap();
    assert_ne!(of_mysql["outcome"], "works", "{impact:#}");

    gate(&world, &catalog, &observed);
}

/// New findings fail, known ones do not.
fn gate(world: &World, catalog: &str, report: &str) {
    let file = |name: &str| world.dir().join(name).display().to_string();
    let (baseline, sarif, markdown) = (file("baseline"), file("g.sarif"), file("g.md"));
    let check = |words: &[&str]| {
        let mut line = vec!["graph", "check", "--catalog", catalog, "--runs", report];
        line.extend(words);
        world.guard().blackstart(&line)
    };
    let first = check(&["--sarif", &sarif, "--markdown", &markdown, "--annotations"]);
    assert_eq!(first.code, 1, "{first:?}");
    assert!(first.stdout.contains("::error title=loop"), "{first:?}");
    let text = std::fs::read_to_string(&sarif).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let results = document["runs"][0]["results"].as_array().unwrap();
    assert!(
        results.iter().filter(|r| r["ruleId"] == "loop").count() == 3,
        "{text}"
    );
    assert!(
        std::fs::read_to_string(&markdown)
            .unwrap()
            .contains("| **new** | error |")
    );
    let known = check(&["--baseline", &baseline, "--update-baseline"]);
    assert_eq!(known.code, 0, "{known:?}");
    let second = check(&["--baseline", &baseline]);
    assert_eq!(second.code, 0, "{second:?}");
    // A report that was cut off is told, and does not pass for a clean bill.
    let cut = world.file("cut.json", "{\"schema_version\":1,");
    let partial = check(&[&cut.display().to_string(), "--baseline", &baseline]);
    assert_eq!(partial.code, 1, "{partial:?}");
    assert!(partial.stderr.contains("partial"), "{partial:?}");
}
