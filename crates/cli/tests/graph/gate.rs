//! `graph check`: what fails a build, and how that is told.

use std::fs;

use serde_json::Value;

use super::scene::{Scene, report};

#[test]
fn the_gate_fails_on_what_is_new_and_lists_what_it_lets_pass() {
    let scene = Scene::of(&[
        "name: mysql\ntier: 1\nneeds: [mirror]",
        "name: mirror\ntier: 2",
    ]);
    report(&scene, "r.json", Some("mysql"), &[]);
    let check = |words: &[&str]| scene.graph(&[&["check", "--runs", "r.json"], words].concat());
    let updated = check(&["--baseline", "known", "--update-baseline"]);
    assert_eq!(updated.code, Some(0), "{updated:?}");
    assert_eq!(check(&["--baseline", "known"]).code, Some(0));

    // A new destination that nobody provides: information, and new.
    report(&scene, "r.json", Some("mysql"), &["pypi.org"]);
    let new = check(&["--baseline", "known"]);
    assert_eq!(new.code, Some(1), "{new:?}");
    assert!(new.out.ends_with("1 new of 2 findings\n"), "{new:?}");
    let words = [
        "--baseline",
        "known",
        "--fail-on",
        "warning",
        "--markdown",
        "g.md",
    ];
    let mild = check(&words);
    assert_eq!(mild.code, Some(0), "{mild:?}");
    assert!(
        mild.out
            .starts_with("note: mysql needs pypi.org:443, which no service provides\n")
    );
    assert!(
        mild.out
            .ends_with("1 new of 2 findings, 1 of them below the severity that fails\n")
    );
    let markdown = fs::read_to_string(scene.path().join("g.md")).unwrap();
    assert!(
        markdown.contains("| **new** | note | mysql needs pypi.org:443"),
        "{markdown}"
    );
    assert!(
        markdown.contains("|  | warning | mysql \\(tier 1\\)"),
        "{markdown}"
    );
    let document = scene.json(&[&["check", "--runs", "r.json"], &words[..4]].concat());
    let judged = |at: usize| {
        let finding = &document["findings"][at];
        (
            finding["kind"].as_str().unwrap(),
            finding["new"].clone(),
            finding["fails"].clone(),
        )
    };
    assert_eq!(judged(0), ("tier_inversion", false.into(), false.into()));
    assert_eq!(
        judged(1),
        ("unowned_destination", true.into(), false.into())
    );
    // Each severity lets pass what is milder.
    for (least, code) in [("info", 1), ("warning", 1), ("error", 0)] {
        assert_eq!(check(&["--fail-on", least]).code, Some(code), "{least}");
    }
}

#[test]
fn annotations_stay_out_of_a_document() {
    let scene = Scene::of(&["name: a\nneeds: [b]", "name: b\nneeds: [a]"]);
    report(&scene, "r.json", Some("a"), &["pypi.org"]);
    let check = |format: &str| {
        scene.graph(&[
            "check",
            "--runs",
            "r.json",
            "--annotations",
            "--format",
            format,
        ])
    };
    let wanted = [
        "::warning title=cannot_start,file=c.yaml,line=5,col=9::a, b cannot start without each other. ",
        "::notice title=unowned_destination,file=c.yaml,line=4,col=7::a needs pypi.org:443, which ",
    ];
    let human = check("human");
    let json = check("json");
    for line in wanted {
        assert!(human.out.contains(line), "{human:?}");
        assert!(json.err.contains(line), "{json:?}");
    }
    serde_json::from_str::<Value>(&json.out).unwrap();
    assert_eq!(human.err, "");
}

/// What the form asks of a result (SARIF 2.1.0, §3.27), and GitHub's code scanning of its place.
#[test]
fn every_result_in_sarif_has_its_place() {
    // Needs that were only seen: of a service with a document, of one without, and of a loop whose second step is declared.
    let scene = Scene::of(&[
        "name: mysql\ntier: 1",
        "name: github\ntier: 2\nprovides: [.github.com]\nneeds: [mysql]",
        "name: x\nneeds: [y]",
        "name: y\nneeds: [x]",
    ]);
    report(
        &scene,
        "one.json",
        Some("mysql"),
        &["github.com", "pypi.org"],
    );
    report(&scene, "two.json", Some("batch"), &["pypi.org"]);
    let at = |words: &[&str]| -> Vec<(String, String)> {
        let ended = scene.run(&[&["graph", "check", "--sarif", "g.sarif"], words].concat());
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let text = fs::read_to_string(scene.path().join("g.sarif")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["version"], "2.1.0");
        let run = &document["runs"][0];
        assert_eq!(run["tool"]["driver"]["name"], "blackstart");
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        let results = run["results"].as_array().unwrap();
        assert!(!results.is_empty());
        let one = |result: &Value| {
            let kind = result["ruleId"].as_str().unwrap();
            assert!(rules.iter().any(|rule| rule["id"] == kind), "{result:#}");
            let level = result["level"].as_str().unwrap();
            assert!(["note", "warning", "error"].contains(&level), "{result:#}");
            assert!(!result["message"]["text"].as_str().unwrap().is_empty());
            let state = result.get("baselineState");
            assert_eq!(state.is_some(), words.contains(&"--baseline"), "{result:#}");
            let places = result["locations"].as_array().unwrap();
            assert_eq!(places.len(), 1, "{result:#}");
            let place = &places[0]["physicalLocation"];
            let file = place["artifactLocation"]["uri"].as_str().unwrap();
            let bare = !file.is_empty() && !file.starts_with('/') && !file.contains(' ');
            assert!(bare, "{result:#}");
            let line = place["region"]["startLine"].as_u64().unwrap();
            assert!(line > 0 && place["region"]["startColumn"].as_u64().unwrap() > 0);
            (kind.to_owned(), format!("{file}:{line}"))
        };
        results.iter().map(one).collect()
    };
    let of = |kind: &str, place: &str| (kind.to_owned(), place.to_owned());
    // By an absolute path too it is a file of the checkout.
    let whole = scene.path().join("c.yaml").display().to_string();
    for catalog in ["c.yaml", "./c.yaml", &whole] {
        let found = at(&["--catalog", catalog, "--runs", "one.json", "two.json"]);
        let wanted = [
            of("loop", "c.yaml:12"),
            of("cannot_start", "c.yaml:17"),
            of("tier_inversion", "c.yaml:4"),
            of("seen_not_declared", "c.yaml:4"),
            of("unowned_destination", "c.yaml:4"),
            of("unowned_destination", "c.yaml:1"),
        ];
        assert_eq!(found, wanted);
    }
    fs::write(scene.path().join("known"), "").unwrap();
    let found = at(&["--runs", "two.json", "--baseline", "known"]);
    assert_eq!(found, [of("unowned_destination", "known:1")]);
    let found = at(&["--runs", "two.json"]);
    assert_eq!(found, [of("unowned_destination", "two.json:1")]);
}
