//! What each form of a result holds, says of itself, and lets through.

use std::fs;

use serde_json::{Value, json};

use super::scene::{Scene, report};

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
        assert!(told.out.contains(sentence), "{verb:?}: {told:?}");
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
    assert_eq!(document["cannot_start"][0]["component"], json!(["x", "y"]));
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
