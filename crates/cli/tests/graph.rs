//! `blackstart graph`, from the files to what is printed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// A directory with a catalog, and where reports and baselines go.
struct Scene {
    dir: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Scene {
    /// Services, each by its keys.
    fn of(services: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text: String = services
            .iter()
            .map(|keys| format!("---\napiVersion: blackstart.dev/v1\nkind: Service\n{keys}\n"))
            .collect();
        fs::write(dir.path().join("c.yaml"), text).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `graph` with these words, and the catalog.
    fn graph(&self, words: &[&str]) -> Ended {
        let (verb, rest) = words.split_first().unwrap();
        self.run(&[&["graph", verb, "--catalog", "c.yaml"], rest].concat())
    }

    fn run(&self, words: &[&str]) -> Ended {
        let ended = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(self.path())
            .env_remove("BLACKSTART_CATALOG")
            .output()
            .unwrap();
        Ended {
            code: ended.status.code(),
            out: String::from_utf8(ended.stdout).unwrap(),
            err: String::from_utf8(ended.stderr).unwrap(),
        }
    }

    fn json(&self, words: &[&str]) -> Value {
        let ended = self.graph(&[words, &["--format", "json"]].concat());
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

#[test]
fn a_circle_that_no_deployment_closes_is_told_by_every_verb() {
    let scene = Scene::of(&["name: a\nneeds: [b]", "name: b\nneeds: [a]"]);
    let loops = scene.graph(&["loops"]).out;
    assert!(
        loops.starts_with("no deployment closes a circle that is known of\ncannot start without each other  a, b\n  a needs b to run\n"),
        "{loops}"
    );
    let document = scene.json(&["loops"]);
    assert_eq!(document["loops"], json!([]));
    assert_eq!(document["knots"][0]["component"], json!(["a", "b"]));
    assert_eq!(document["knots"][0]["steps"][1]["to"], "a");
    let check = scene.graph(&["check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(
        check
            .out
            .contains("warning: a, b cannot start without each other"),
        "{check:?}"
    );
    let page = scene.graph(&["export", "--to", "html"]).out;
    assert!(!page.contains("No circle was found"), "{page}");
    assert!(page.contains("What lies on a circle is drawn in red"));
    assert!(page.contains("; no deployment closes a circle that is known of; 2 services cannot start without each other"));
    assert!(
        scene
            .graph(&["export", "--to", "dot"])
            .out
            .contains("n0 -> n1 [label=\"run\", color=red")
    );
    assert!(
        scene
            .graph(&["export", "--to", "mermaid"])
            .out
            .contains("n0 ==>|run| n1")
    );

    let alone = Scene::of(&["name: a\nneeds: [a]", "name: b"]);
    for verb in [&["loops"][..], &["order"], &["impact", "a"]] {
        let told = alone.graph(verb).out;
        assert!(told.contains("cannot start without itself  a"), "{told}");
        assert!(!told.contains("each other"), "{told}");
    }
    let page = alone.graph(&["export", "--to", "html"]).out;
    assert!(!page.contains("each other"), "{page}");

    let none = Scene::of(&["name: a\nneeds: [b]", "name: b"]);
    assert_eq!(none.graph(&["loops"]).out, "no circle that is known of\n");
    let page = none.graph(&["export", "--to", "html"]).out;
    assert!(page.contains("No circle was found."));
}

#[test]
fn a_circle_that_is_too_large_to_be_drawn_is_one_all_the_same() {
    let ring = |first: &str| -> Vec<String> {
        (0..80)
            .map(|n| {
                let next = (n + 1) % 80;
                let phase = if n == 0 { first } else { "run" };
                format!("name: s{n}\nneeds: [{{ service: s{next}, for: {phase} }}]")
            })
            .collect()
    };
    for phase in ["deploy", "run"] {
        let services = ring(phase);
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let page = Scene::of(&services).graph(&["export", "--to", "html"]).out;
        assert!(
            page.contains("The circles are too large to be drawn"),
            "{phase}"
        );
        assert!(!page.contains("There is no circle"), "{phase}");
        assert!(
            page.contains("80 services cannot start without each other"),
            "{phase}"
        );
    }
    // One that can be drawn beside one that cannot.
    let mut services = ring("run");
    services.push("name: x\nneeds: [{ service: y, for: deploy }]".to_owned());
    services.push("name: y\nneeds: [x]".to_owned());
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let page = Scene::of(&services).graph(&["export", "--to", "html"]).out;
    assert!(page.contains("What lies on a circle is drawn in red"));
    assert!(page.contains("1 circle is not drawn"));
}

/// What a run reached for: names, each with its verdict.
fn report(scene: &Scene, file: &str, service: Option<&str>, reached: &[&str]) {
    let time = "2026-05-04T12:00:01.000000Z";
    let flow = |name: &&str| {
        json!({
            "subject": 1, "name": name, "address": "192.0.2.1", "port": 443, "protocol": "tcp",
            "verdict": "allow", "rule": "default", "attempts": 1, "outcome": "connected",
            "bytes_sent": 100, "first_seen": time, "last_seen": time, "attribution": "exact",
        })
    };
    let document = json!({
        "schema_version": 1,
        "run": {
            "id": format!("run-{file}"), "service": service, "owner": null, "command": ["./d.sh"],
            "host": "db1", "mode": "observe", "policy": null, "started": time, "ended": time,
            "exit_code": 0, "limits": {}, "guarded": "yes",
            "usage": {}, "kernel": { "release": "6.12", "features": [] },
        },
        "subjects": [{
            "id": 1, "pid": 100, "parent": null, "exe": "/usr/bin/tool", "argv": ["tool"],
            "argv_truncated": false, "started": time, "ended": time, "exit": 0,
        }],
        "names": [],
        "flows": reached.iter().map(flow).collect::<Vec<_>>(),
        "delegates": [],
        "findings": [],
        "coverage": {
            "attempts": 1, "recorded": 1, "lost": 0, "attributed": 1, "unsupervised_seconds": 0.0,
            "gaps": [],
        },
    });
    fs::write(scene.path().join(file), document.to_string()).unwrap();
}

/// The words of every verb that shows something.
const SHOWN: &[&[&str]] = &[
    &["show"],
    &["loops"],
    &["order"],
    &["impact", "a"],
    &["check", "--markdown", "g.md", "--sarif", "g.sarif"],
    &["export", "--to", "dot"],
    &["export", "--to", "mermaid"],
    &["export", "--to", "html"],
];

#[test]
fn a_run_that_is_nobodys_is_told_by_every_verb() {
    let scene = Scene::of(&["name: a"]);
    report(&scene, "r.json", None, &["github.com"]);
    for verb in SHOWN {
        let told = scene.graph(&[verb, &["--runs", "r.json"][..]].concat());
        assert_eq!(told.code, Some(0), "{told:?}");
        let sentence = "1 run does not say what was deployed";
        assert!(told.err.contains(sentence), "{verb:?}: {told:?}");
        // Drawings and pages are passed on by themselves.
        let own = match verb[verb.len() - 1] {
            "html" => "1 of the runs do not say what they deploy",
            _ => sentence,
        };
        assert!(told.out.contains(own), "{verb:?}: {told:?}");
    }
    for file in ["g.md", "g.sarif"] {
        let text = fs::read_to_string(scene.path().join(file)).unwrap();
        assert!(
            text.contains("1 run does not say what was deployed"),
            "{text}"
        );
        assert!(!text.contains("No circle"), "{text}");
    }
    for verb in ["loops", "order", "check"] {
        let document = scene.json(&[verb, "--runs", "r.json"]);
        assert_eq!(document["unassigned_runs"], json!(["run-r.json"]));
        assert_eq!(document["partial"], false);
    }
    report(&scene, "r.json", Some("a"), &["github.com"]);
    let whole = scene.graph(&["loops", "--runs", "r.json"]);
    assert_eq!(whole.err, "");
}

#[test]
fn what_is_partial_says_so_in_every_form() {
    let scene = Scene::of(&["name: a"]);
    fs::write(scene.path().join("cut.json"), "{\"schema_version\":1,").unwrap();
    for verb in SHOWN {
        let told = scene.graph(&[verb, &["--runs", "cut.json"][..]].concat());
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.err.contains("cut.json"), "{told:?}");
        assert!(
            told.out.to_lowercase().contains("this is partial"),
            "{verb:?}: {told:?}"
        );
    }
    for verb in [
        &["show"][..],
        &["loops"],
        &["order"],
        &["impact", "a"],
        &["check"],
    ] {
        let document = scene.json(&[verb, &["--runs", "cut.json"]].concat());
        assert_eq!(document["partial"], true);
    }
    let markdown = fs::read_to_string(scene.path().join("g.md")).unwrap();
    assert!(
        !markdown.contains("No circle, and nothing else"),
        "{markdown}"
    );
    assert!(markdown.contains("this is partial"), "{markdown}");
    let sarif = fs::read_to_string(scene.path().join("g.sarif")).unwrap();
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    let invocation = &sarif["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let note = invocation["toolExecutionNotifications"][0]["message"]["text"].as_str();
    assert!(note.unwrap().contains("partial"), "{sarif:#}");
    // A baseline of what could not be read would hide the rest for good.
    let words = [
        "check",
        "--runs",
        "cut.json",
        "--baseline",
        "b",
        "--update-baseline",
    ];
    let update = scene.graph(&words);
    assert_eq!(update.code, Some(1), "{update:?}");
    assert!(!scene.path().join("b").exists());
}

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

#[test]
fn a_catalog_that_nobody_typed_is_looked_for_and_told() {
    let scene = Scene::of(&["name: b"]);
    if !Path::new("/etc/blackstart/catalog").exists() {
        let nothing = scene.run(&["graph", "order"]);
        assert_eq!(nothing.code, Some(125), "{nothing:?}");
        assert!(
            nothing.err.contains("name a catalog with --catalog DIR"),
            "{nothing:?}"
        );
    }
    let dir = scene.path().join("catalog");
    fs::create_dir(&dir).unwrap();
    fs::write(
        dir.join("a.yaml"),
        "apiVersion: blackstart.dev/v1\nkind: Service\nname: a\n",
    )
    .unwrap();
    let here = scene.run(&["graph", "order"]);
    assert_eq!((here.code, &*here.out), (Some(0), " 1  a\n"), "{here:?}");
    assert_eq!(here.err, "blackstart: the catalog is catalog\n");
    // The variable goes before it, and what was typed before both.
    let variable = |words: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(scene.path())
            .env("BLACKSTART_CATALOG", "c.yaml")
            .output()
            .unwrap();
        (
            String::from_utf8(ended.stdout).unwrap(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let (out, err) = variable(&["graph", "order"]);
    assert_eq!(
        (&*out, &*err),
        (" 1  b\n", "blackstart: the catalog is c.yaml\n")
    );
    let (out, err) = variable(&["graph", "order", "--catalog", "catalog"]);
    assert_eq!((&*out, &*err), (" 1  a\n", ""));
    // A policy is read with the host's catalog, and never with one that happens to lie where it is read.
    fs::write(
        scene.path().join("p.yaml"),
        "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: service:b\n",
    )
    .unwrap();
    let (_, err) = variable(&["policy", "check", "p.yaml"]);
    assert!(!err.contains("catalog"), "{err}");
    let (out, _) = variable(&["policy", "explain", "--policy", "p.yaml", "b.example"]);
    assert!(!out.contains("no catalog"), "{out}");
    if !Path::new("/etc/blackstart/catalog").exists() {
        let other = scene.run(&["policy", "check", "p.yaml"]);
        assert_eq!(other.code, Some(1), "{other:?}");
        assert!(
            (other.out + &other.err).contains("catalog"),
            "nobody said which services there are"
        );
    }
}

#[test]
fn a_page_offers_a_rule_and_a_waiver_for_a_loop() {
    let scene = Scene::of(&[
        "name: mysql\nowner: team-db",
        "name: github\nprovides: [.github.com]\nneeds: [mysql]",
    ]);
    report(&scene, "r.json", Some("mysql"), &["api.github.com"]);
    let page = scene
        .graph(&["export", "--to", "html", "--runs", "r.json"])
        .out;
    let waiver =
        "- for: api.github.com\n  process: tool\n  owner: team-db\n  reason: WHY\n  expires: 2026-";
    assert!(page.contains(waiver), "{page}");
    assert!(
        page.contains("- deny: \"service:github\"")
            || page.contains("- deny: &#34;service:github")
            || page.contains("- deny: service:github"),
        "{page}"
    );
    // What is only declared was reached by nobody who could be let pass.
    let declared = Scene::of(&["name: a\nneeds: [{service: a, for: deploy}]"]);
    let page = declared.graph(&["export", "--to", "html"]).out;
    assert!(page.contains("declared loop") && !page.contains("Waiver, if it must be"));
}

/// Nothing that a terminal acts on, and nothing that reorders a line.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| {
        c == '\n'
            || !(c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'))
    })
}

#[test]
fn strangers_names_stay_texts_in_every_form() {
    let name = "ev\u{202e}il\"];<b>`|[x](y)";
    let quoted = format!("'{name}'");
    let services = [
        format!(
            "name: a\nowner: \"team\\e[31m\\n::error::x\"\nneeds: [{{service: {quoted}, for: deploy, reason: \"why\\e]0;t\\a\"}}]"
        ),
        format!("name: {quoted}\nprovides: [.github.com]\nneeds: [a]"),
        "name: x\nneeds: [y]".to_owned(),
        format!("name: y\nneeds: [x, {quoted}]"),
    ];
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let scene = Scene::of(&services);
    report(
        &scene,
        "r.json",
        Some("a"),
        &["github.com", "tele\u{1b}[2J\u{202e}metry.example"],
    );
    let text = fs::read_to_string(scene.path().join("r.json")).unwrap();
    let hostile = text
        .replace("/usr/bin/tool", "/usr/bin/to\\u001b[31mol\\u202e")
        .replace("\"db1\"", "\"d\\u0007b\"");
    fs::write(scene.path().join("r.json"), hostile).unwrap();
    let graph = |words: &[&str]| {
        let ended = scene.graph(&[words, &["--runs", "r.json"]].concat());
        assert!(
            is_plain(&ended.out) && is_plain(&ended.err),
            "{words:?}: {ended:?}"
        );
        ended.out
    };
    let shown = "ev\\u{202e}il\"];<b>`|[x](y)";
    for words in [
        &["show"][..],
        &["loops"],
        &["order"],
        &["impact", name],
        &["check"],
    ] {
        let told = graph(words);
        assert!(told.contains(shown), "{words:?}: {told}");
        // A line begins with our words, and never with a command for whoever reads the log.
        assert!(
            told.lines()
                .all(|line| !line.trim_start().starts_with("::")),
            "{told}"
        );
    }
    assert!(graph(&["show", "a"]).contains("to\\x1b[31mol\\u{202e}"));
    assert!(graph(&["show", "a"]).contains("run-r.json on d\\x07b"));

    let dot = graph(&["export", "--to", "dot"]);
    // Quotes open and close on each line, so that no text ends it.
    for line in dot.lines() {
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(bare.matches('"').count() % 2, 0, "{line}");
    }
    let labels = dot
        .lines()
        .filter(|line| line.contains("shape=box];"))
        .count();
    assert_eq!(
        labels, 5,
        "four services, and what all nodes are like: {dot}"
    );
    assert!(dot.starts_with("digraph blackstart {\n") && dot.ends_with("}\n"));

    let mermaid = graph(&["export", "--to", "mermaid"]);
    for line in mermaid.lines().skip(1) {
        let odd = |c: char| !(c.is_alphanumeric() || " .-_,/:#;|[]()\"=>".contains(c));
        assert!(!line.contains(odd), "{line}");
        assert!(
            line.matches('"').count() <= 2 && line.matches('[').count() <= 1,
            "{line}"
        );
    }

    // A document for programs has the texts as they are, with JSON's own escapes of control characters.
    let ended = scene.graph(&["export", "--to", "json", "--runs", "r.json"]);
    assert!(!ended.out.chars().any(|c| c.is_control() && c != '\n'));
    let document: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document["schema_version"], 1);
    let names: Vec<_> = document["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "a",
            name,
            "x",
            "y",
            "tele\u{1b}[2J\u{202e}metry.example:443"
        ]
    );
    assert_eq!(
        (
            document["loops"][0]["deploys"].as_str(),
            document["loops"][0]["steps"].as_array().unwrap().len()
        ),
        (Some("a"), 2)
    );
    assert_eq!(document["knots"][0]["component"], json!(["x", "y"]));
    let needs = document["needs"].as_array().unwrap();
    assert!(
        needs
            .iter()
            .any(|need| need["evidence"][1]["source"] == "observed"),
        "{document:#}"
    );

    let words = [
        "check",
        "--runs",
        "r.json",
        "--annotations",
        "--markdown",
        "g.md",
    ];
    let told = scene.graph(&words);
    assert!(is_plain(&told.out), "{told:?}");
    let markdown = fs::read_to_string(scene.path().join("g.md")).unwrap();
    assert!(is_plain(&markdown), "{markdown}");
    assert!(
        markdown.contains("&lt;b&gt;\\`\\|\\[x\\]\\(y\\)"),
        "{markdown}"
    );
    let cells = markdown.lines().filter(|line| line.starts_with('|'));
    for line in cells {
        assert_eq!(line.replace("\\|", "").matches('|').count(), 6, "{line}");
    }
}

/// A text of a million lines in which hundreds of places are wrong.
#[test]
fn what_is_wrong_in_a_million_lines_is_told_soon() {
    let scene = Scene::of(&["name: b"]);
    let needs: String = (0..1_000_000).map(|n| format!("- x{n}\n")).collect();
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Service\nname: a\nneeds:\n{needs}");
    fs::write(scene.path().join("large.yaml"), text).unwrap();
    let began = std::time::Instant::now();
    let told = scene.run(&["graph", "loops", "--catalog", "large.yaml"]);
    let took = began.elapsed();
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert_eq!(told.err.matches("error: no service is called").count(), 50);
    assert!(
        told.err.contains("\nand 151 more (151 of them errors)\n"),
        "{}",
        told.err
    );
    assert!(
        told.err
            .contains(" --> large.yaml:5:3\n  |\n5 | - x0\n  |   ^^\n"),
        "{}",
        told.err
    );
    // Seconds for reading. When each place was shown with all of the text, it was minutes.
    assert!(took.as_secs() < 60, "{took:?}");
}
