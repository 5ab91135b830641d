//! What is wrong with a policy is told at its place, by an exit code of 1 and never by a panic: one test for each kind
//! of bad input.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jsonschema::Validator;
use serde_json::Value;
use tempfile::TempDir;

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";
/// A policy that cannot be read is told so soon, however large it is. Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// A directory in which files are checked; each begins with the head of a policy, unless it lies in the catalog.
struct Files(TempDir);

/// One diagnostic.
#[derive(Debug)]
struct Told {
    severity: String,
    message: String,
    /// `file:line:column`.
    place: String,
    /// The text that is pointed at.
    at: String,
    help: String,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let head = if name.starts_with("catalog/") {
                ""
            } else {
                HEAD
            };
            fs::write(path, format!("{head}{text}")).unwrap();
        }
        Self(dir)
    }

    fn policy(text: &str) -> Self {
        Self::new(&[("p.yaml", text)])
    }

    fn call(&self, words: &[&str]) -> Output {
        let begin = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(["policy"])
            .args(words)
            .current_dir(self.0.path())
            .env_clear()
            .env("BLACKSTART_STATE", self.0.path().join("state"))
            .env("BLACKSTART_GUARDRAILS", self.0.path().join("none"))
            .output()
            .unwrap();
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        output
    }

    /// What `policy check` tells a program of `p.yaml`; for people it must be at the same places.
    fn told(&self, code: i32, more: &[&str]) -> Vec<Told> {
        let output = self.call(&[&["check", "--format", "json", "p.yaml"], more].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["valid"], code == 0);
        answers("check", &document);
        let people = self.call(&[&["check", "p.yaml"], more].concat());
        assert_eq!(people.status.code(), Some(code), "{people:?}");
        let people = String::from_utf8(people.stdout).unwrap();
        let told: Vec<Told> = document["files"][0]["diagnostics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|each| self.one(each))
            .collect();
        for Told { message, place, .. } in &told {
            assert!(people.contains(message.as_str()), "{message} in {people}");
            assert!(people.contains(place.as_str()), "{place} in {people}");
        }
        told
    }

    fn one(&self, told: &Value) -> Told {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| usize::try_from(told[key].as_u64().unwrap()).unwrap();
        let file = text("file");
        let written = fs::read_to_string(self.0.path().join(&file)).unwrap();
        let (start, line) = (number("start"), number("line"));
        // The line is that of the first byte, and the column counts from its beginning.
        let before = written.get(..start).expect("a place in the text");
        assert_eq!(line, 1 + before.matches('\n').count());
        let of_line = before.rsplit('\n').next().unwrap_or_default();
        assert_eq!(number("column"), 1 + of_line.chars().count());
        Told {
            severity: text("severity"),
            message: text("message"),
            place: format!("{file}:{line}:{}", number("column")),
            at: written[start..number("end")].to_owned(),
            help: text("help"),
        }
    }

    /// The only error there is.
    fn error(&self) -> Told {
        let mut told = self.told(1, &[]);
        assert_eq!(told.len(), 1, "{told:?}");
        let only = told.remove(0);
        assert_eq!(only.severity, "error");
        only
    }
}

/// The published schema of what a command answers takes this.
fn answers(command: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/reference")
        .join(format!("policy-{command}.schema.json"));
    let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let validator: Validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?} of {document:#}");
}

#[test]
fn an_unknown_key() {
    let told = Files::policy("rulez: []\n").error();
    assert_eq!((&*told.place, &*told.at), ("p.yaml:3:1", "rulez"));
    assert_eq!(told.help, "did you mean `rules`?");
    let told = Files::policy("rules:\n  - deny: a.example\n    raeson: x\n").error();
    assert_eq!((&*told.place, &*told.at), ("p.yaml:5:5", "raeson"));
}

#[test]
fn a_duplicate_key() {
    let told = Files::policy("mode: observe\nmode: enforce\n").error();
    assert_eq!((&*told.place, &*told.at), ("p.yaml:4:1", "mode"));
    assert!(told.help.contains("line 3"), "{told:?}");
    let told = Files::policy("rules:\n  - deny: a.example\n    deny: b.example\n").error();
    assert_eq!((&*told.place, &*told.at), ("p.yaml:5:5", "deny"));
}

#[test]
fn a_wrong_type() {
    for (text, place, at) in [
        ("rules: none\n", "p.yaml:3:8", "none"),
        ("mode: [enforce]\n", "p.yaml:3:7", "[enforce]"),
        ("service: true\n", "p.yaml:3:10", "true"),
        (
            "rules: [{deny: a.example, final: \"true\"}]\n",
            "p.yaml:3:34",
            "\"true\"",
        ),
        ("limits: 5\n", "p.yaml:3:9", "5"),
    ] {
        let told = Files::policy(text).error();
        assert_eq!((&*told.place, &*told.at), (place, at), "{told:?}");
    }
}

#[test]
fn a_bad_date() {
    for date in ["2026-02-30", "2026-13-01", "tomorrow", "2026-1-1", "''"] {
        let text = format!(
            "waivers:\n  - for: a.example\n    owner: o\n    reason: r\n    expires: {date}\n"
        );
        let told = Files::policy(&text).error();
        assert_eq!((&*told.place, &*told.at), ("p.yaml:7:14", date));
    }
}

#[test]
fn a_bad_pattern() {
    for pattern in [
        "evil-*.example",
        "a..example",
        "https://a.example/x",
        "10.20.0.1/16",
        "10.0.0.0/33",
        "a.example:0",
        "a.example:70000",
        "a_é\u{0}b",
    ] {
        let quoted = serde_json::to_string(pattern).unwrap();
        let told = Files::policy(&format!("rules:\n  - deny: {quoted}\n")).error();
        assert_eq!((&*told.place, &*told.at), ("p.yaml:4:11", &*quoted));
    }
}

#[test]
fn an_allow_of_every_address() {
    for every in [
        "0.0.0.0/0",
        "::/0",
        "\"*\"",
        "\"[::/0]:1-65535\"",
        "0.0.0.0/0:1-65535",
    ] {
        for effect in ["allow", "deny"] {
            let told = Files::policy(&format!("rules:\n  - {effect}: {every}\n")).error();
            assert_eq!(told.at, every);
            assert!(told.help.contains("`default: deny`"), "{told:?}");
        }
    }
}

#[test]
fn an_allow_of_a_port_of_every_address() {
    for every in ["\"*:443\"", "0.0.0.0/0:443", "\"[::/0]:443\""] {
        let files = Files::policy(&format!("default: deny\nrules:\n  - allow: {every}\n"));
        let told = files.told(0, &[]);
        assert_eq!(told.len(), 1, "{told:?}");
        let rule = format!("allow: {every}");
        assert_eq!((&*told[0].severity, &*told[0].at), ("warning", &*rule));
        let files = Files::policy(&format!("rules:\n  - allow: {every}\n"));
        assert!(files.told(0, &[]).is_empty());
    }
}

#[test]
fn a_pattern_at_a_public_suffix() {
    for pattern in [".co.uk", "\"*.github.io\"", "com", "\"s3.*.com\""] {
        let told = Files::policy(&format!("rules:\n  - allow: {pattern}\n")).error();
        assert_eq!(told.at, pattern);
        assert!(told.message.contains("public suffix"), "{told:?}");
        // As a deny it is to be looked at.
        let told = Files::policy(&format!("rules:\n  - deny: {pattern}\n")).told(0, &[]);
        assert_eq!((told.len(), &*told[0].severity), (1, "warning"));
    }
}

#[test]
fn a_service_that_the_catalog_does_not_have() {
    let files = Files::new(&[
        ("p.yaml", "rules:\n  - deny: service:biling\n"),
        (
            "catalog/billing.yaml",
            "apiVersion: blackstart.dev/v1\nkind: Service\nname: billing\nprovides: [billing.example]\n",
        ),
    ]);
    let with_catalog = files.told(1, &["--catalog", "catalog"]);
    let told = with_catalog
        .iter()
        .find(|told| told.message.contains("biling"))
        .unwrap_or_else(|| panic!("{with_catalog:?}"));
    assert_eq!((&*told.severity, &*told.place), ("error", "p.yaml:4:11"));
    assert_eq!(told.help, "did you mean `billing`?");
    // Without a catalog nobody knows it.
    let told = files.error();
    assert_eq!(told.place, "p.yaml:4:11");
    assert!(told.help.contains("--catalog"), "{told:?}");
}

#[test]
fn a_loop_of_includes() {
    let files = Files::new(&[
        ("p.yaml", "include: [a.yaml]\n"),
        ("a.yaml", "include:\n  - p.yaml\n"),
    ]);
    let told = files.error();
    assert_eq!((&*told.place, &*told.at), ("a.yaml:4:5", "p.yaml"));
    assert!(
        told.message.contains("p.yaml → a.yaml → p.yaml"),
        "{told:?}"
    );
    let told = Files::policy("include: [p.yaml]\n").error();
    assert_eq!(told.place, "p.yaml:3:11");
}

#[test]
fn a_file_over_16_mebibytes() {
    let files = Files::policy("");
    let text = format!("{HEAD}# {}\n", "x".repeat(16 << 20));
    fs::write(files.0.path().join("p.yaml"), &text).unwrap();
    let told = files.error();
    assert_eq!(told.place, "p.yaml:1:1");
    assert!(told.message.contains("larger than 16 MiB"), "{told:?}");
    // One octet less than that is read.
    let fits = &text[..(16 << 20)];
    fs::write(files.0.path().join("p.yaml"), fits).unwrap();
    assert!(files.told(0, &[]).is_empty());
}

#[test]
fn deep_nesting() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
        for depth in [17, 1_000, 200_000] {
            let files = Files::policy(&format!(
                "rules:\n  {}{}\n",
                open.repeat(depth),
                close.repeat(depth)
            ));
            let told = files.error();
            assert!(told.place.starts_with("p.yaml:4:"), "{told:?}");
        }
    }
}

#[test]
fn an_alias_bomb() {
    let mut text = "service: &a0 [x, x, x, x, x, x, x, x, x, x]\nrules:\n".to_owned();
    for i in 1..20 {
        let of = format!("*a{}, ", i - 1).repeat(10);
        text += &format!("  - &a{i} [{of}]\n");
    }
    let told = Files::policy(&text).error();
    assert_eq!((&*told.place, &*told.at), ("p.yaml:5:10", "*a0"));
    assert!(told.message.contains("aliases"), "{told:?}");
    // A key that merges is an alias as well.
    let told = Files::policy("tests: &t []\nrules:\n  - <<: *t\n").error();
    assert_eq!(told.place, "p.yaml:5:9");
}

#[test]
fn what_is_no_text() {
    let files = Files::policy("");
    fs::write(files.0.path().join("p.yaml"), b"kind: \xff\xfe").unwrap();
    let output = files.call(&["check", "--format", "json", "p.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    answers("check", &document);
    let told = &document["files"][0]["diagnostics"][0];
    let place = (told["line"].as_u64(), told["column"].as_u64());
    assert_eq!(place, (Some(1), Some(7)), "{told}");
    assert!(told["message"].as_str().unwrap().contains("0xff"), "{told}");
    let people = files.call(&["check", "p.yaml"]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("p.yaml:1:7"));
}

/// What reads well and is too much for the kernel's tables: shown at a rule with which it was.
#[test]
fn too_many_processes() {
    let rules = (0..70).map(|n| format!("  - {{deny: h{n}.example, process: p{n}}}\n"));
    let policy = format!("rules:\n{}", rules.collect::<String>());
    let told = Files::policy(&policy).error();
    assert_eq!(told.place, "p.yaml:68:6");
    assert!(told.at.contains("process: p64"), "{}", told.at);
    assert!(told.message.contains("more than 64 different processes"));
    assert!(told.help.contains("ancestor"), "{}", told.help);
    // Every port in every order of what one may descend from.
    let rules = (0..200u32).flat_map(|port| {
        (0..64).map(move |n| {
            let (effect, n) = (
                ["allow", "deny"][usize::from(n % 3 != 0)],
                (n * (2 * port + 1) + port) % 64,
            );
            format!(
                "  - {{{effect}: \"db.example:{}\", process: ancestor:p{n}}}\n",
                port + 1
            )
        })
    });
    let policy = format!("default: deny\nrules:\n{}", rules.collect::<String>());
    let told = Files::policy(&policy).error();
    assert!(
        told.message.contains("combine in more ways"),
        "{}",
        told.message
    );
    assert!(told.at.contains("db.example"), "{}", told.at);
}

#[test]
fn an_empty_allow_list_denies_everything() {
    let files = Files::policy(
        "mode: enforce\ndefault: deny\nrules: []\ntests:\n  - {to: a.example:443, expect: deny}\n  - {to: 192.0.2.1:443, expect: deny}\n  - {to: a.example, expect: allow}\n",
    );
    assert!(files.told(0, &[]).is_empty());
    let output = files.call(&["test", "--format", "json", "p.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    answers("test", &document);
    let passed: Vec<&Value> = document["files"][0]["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| &case["passed"])
        .collect();
    assert_eq!(passed, [true, true, false]);
}

#[test]
fn a_program_is_answered_as_the_schemas_say() {
    let files = Files::policy(
        "rules:\n  - deny: .a.example\n    reason: r\n    fix: f\n    process: curl\n  - deny: 10.0.0.0/8:22\n  - deny: unix:/run/*.sock\n  - allow: b.a.example:443\n    protocol: tcp\nwaivers:\n  - {for: c.a.example, owner: o, reason: r, expires: 2999-12-31}\ntests:\n  - {to: b.a.example, expect: deny}\n",
    );
    for question in [
        &["a.example"][..],
        &[
            "b.a.example:443",
            "--address",
            "10.1.2.3",
            "--process",
            "/usr/bin/curl",
        ],
        &[
            "c.a.example:22",
            "--address",
            "10.1.2.3",
            "--process",
            "curl",
        ],
        &["10.1.2.3:22", "--protocol", "udp"],
        &["unix:/run/x.sock"],
        &["nothing.example:80"],
    ] {
        let words = [
            &["explain", "--policy", "p.yaml", "--format", "json"],
            question,
        ]
        .concat();
        let output = files.call(&words);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        answers("explain", &serde_json::from_slice(&output.stdout).unwrap());
    }
    let output = files.call(&["test", "--format", "json", "p.yaml", "absent.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    answers("test", &document);
    assert_eq!(document["files"][1]["valid"], false);
    assert!(document["files"][1]["error"].is_string());
}
