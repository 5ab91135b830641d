//! The published schema of a policy file: it takes what the parser takes, and refuses what an editor ought to
//! mark.

use std::path::Path;

use blackstart_core::catalog;
use blackstart_core::policy::{parse, schema};
use jsonschema::Validator;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// A text of YAML as an editor hands it to a validator.
fn document(text: &str) -> Value {
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = vec![Open::List(Vec::new())];
    for event in Parser::new_from_str(text) {
        let value = match event.unwrap().0 {
            Event::Scalar(text, ScalarStyle::Plain, ..) => match text.as_ref() {
                "" | "~" | "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text => text.parse::<u64>().map_or(Value::from(text), Value::from),
            },
            Event::Scalar(text, ..) => Value::from(text.as_ref()),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().unwrap() {
                Open::List(items) => Value::from(items),
                Open::Map(map, _) => Value::from(map),
            },
            _ => continue,
        };
        match open.last_mut().unwrap() {
            Open::List(items) => items.push(value),
            Open::Map(map, key) => match key.take() {
                None => *key = Some(value.as_str().unwrap().to_owned()),
                Some(key) => {
                    map.insert(key, value);
                }
            },
        }
    }
    match open.pop() {
        Some(Open::List(mut items)) => items.pop().unwrap(),
        _ => panic!("not closed"),
    }
}

fn validator() -> Validator {
    jsonschema::validator_for(&schema()).unwrap()
}

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

#[test]
fn every_key_is_taken() {
    let text = format!(
        r#"{HEAD}service: mysql
mode: observe
default: deny
inspect: [443, 8443]
include: [base.yaml]
protect: [github]
follow: [mysql.service, "app-*.service"]
rules:
  - deny: .github.com:443
    protocol: tcp
    process: ancestor:terraform
    mode: enforce
    on_match: refuse EHOSTUNREACH
    reaction: fail
    final: false
    reason: served by this database
    fix: use the mirror
  - allow: mirror.internal
  - deny: unix:/run/docker.sock
waivers:
  - {{ for: api.github.com, process: terraform, owner: team-db, reason: soon over, expires: 2026-12-31 }}
tests:
  - {{ to: api.github.com:443, address: 192.0.2.1, process: /usr/bin/git, protocol: tcp, expect: deny, rule: deny .github.com:443 }}
"#
    );
    assert!(
        parse(&text, "p.yaml").is_ok(),
        "{:?}",
        parse(&text, "p.yaml")
    );
    if let Err(error) = validator().validate(&document(&text)) {
        panic!("{error} at {}", error.instance_path);
    }
    let empty = format!("{HEAD}rules:\n");
    assert!(parse(&empty, "p.yaml").is_ok() && validator().is_valid(&document(&empty)));
}

#[test]
fn what_the_parser_refuses_an_editor_marks() {
    let validator = validator();
    for text in [
        "kind: Policy\n",
        "apiVersion: blackstart.dev/v2\nkind: Policy\n",
        &format!("{HEAD}servce: mysql\n"),
        &format!("{HEAD}service:\n"),
        &format!("{HEAD}mode: enforced\n"),
        &format!("{HEAD}mode:\n"),
        &format!("{HEAD}inspect: 443\n"),
        &format!("{HEAD}inspect: [https]\n"),
        &format!("{HEAD}inspect: [0]\n"),
        &format!("{HEAD}inspect: [65536]\n"),
        &format!("{HEAD}follow: mysql.service\n"),
        &format!("{HEAD}follow: [mysql]\n"),
        &format!("{HEAD}rules: all\n"),
        &format!("{HEAD}rules: [github.com]\n"),
        &format!("{HEAD}rules: [{{reason: x}}]\n"),
        &format!("{HEAD}rules: [{{deny: a.example, allow: b.example}}]\n"),
        &format!("{HEAD}rules: [{{deny: a.example, on_match: drop}}]\n"),
        &format!("{HEAD}rules: [{{deny: a.example, final: sometimes}}]\n"),
        &format!("{HEAD}waivers: [{{for: a.example, owner: a, reason: b}}]\n"),
        &format!("{HEAD}waivers: [{{for: a.example, owner: a, reason: b, expires: 31.12.2026}}]\n"),
        &format!("{HEAD}tests: [{{to: a.example, expect: refuse}}]\n"),
        &format!("{HEAD}tests: [{{expect: deny}}]\n"),
    ] {
        assert!(parse(text, "p.yaml").is_err(), "{text}");
        assert!(!validator.is_valid(&document(text)), "{text}");
    }
}

#[test]
fn the_policies_of_this_repository_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let validator = validator();
    let mut seen = 0;
    let mut directories = vec![root.join("examples"), root.join("policies")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                if !text.contains("kind: Policy") {
                    continue;
                }
                seen += 1;
                let shown = path.display();
                assert!(parse(&text, "p.yaml").is_ok(), "{shown}");
                if let Err(error) = validator.validate(&document(&text)) {
                    panic!("{shown}: {error} at {}", error.instance_path);
                }
            }
        }
    }
    assert!(seen > 0, "no policy was found below {}", root.display());
}

#[test]
fn a_catalog_is_marked_where_its_reader_refuses_it() {
    let validator = jsonschema::validator_for(&catalog::schema()).unwrap();
    let head = "apiVersion: blackstart.dev/v1\nkind: Service\nname: a\n";
    let whole = |text: &str| !catalog::read(&[("c.yaml", text)]).partial;
    for good in [
        head.to_owned(),
        format!(
            "{head}owner: team\ntier: 1\nprovides: [.a.example, {{ endpoint: '10.0.0.1:53', protocol: udp }}, 'unix:/run/a.sock']\nneeds:\n"
        ),
        "apiVersion: blackstart.dev/v1\nkind: Import\nfrom: jaeger\nservices: [{ name: a }, { name: b, owner: c, tier: 2, provides: [b.example] }]\nneeds: [{ by: a, service: b, at: 'x:1:2' }]\n".to_owned(),
    ] {
        assert!(whole(&good), "{good}");
        if let Err(error) = validator.validate(&document(&good)) {
            panic!("{good}: {error} at {}", error.instance_path);
        }
    }
    for bad in [
        "kind: Service\nname: a\n".to_owned(),
        "apiVersion: blackstart.dev/v1\nkind: Service\n".to_owned(),
        "apiVersion: blackstart.dev/v1\nkind: Import\nneeds: [{ by: a }]\n".to_owned(),
        format!("{head}tier: 0\n"),
        format!("{head}teir: 1\n"),
        format!("{head}provides: a.example\n"),
        format!("{head}needs: [{{ service: a, for: fun }}]\n"),
        format!("{head}needs: [{{ for: run }}]\n"),
    ] {
        assert!(!whole(&bad), "{bad}");
        assert!(!validator.is_valid(&document(&bad)), "{bad}");
    }
}
