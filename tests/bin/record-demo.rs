//! Records the demo's history: plays its deployment several times, and writes the reports in a normal form.
//!
//! `blackstart-record-demo BLACKSTART [DIRECTORY]`: the binary to record with, and where the reports go
//! (`tests/data/demo-history` if it is not given). What differs from one recording to the next without a meaning (times, ids,
//! process numbers, names of temporary files, what it took) is replaced by fixed values, so that a new recording shows what has changed. What is left is the order of what happened in the same moment.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blackstart_lab::{World, workspace};
use serde_json::{Map, Value, json};

/// A run of the history: flags, the command, and how it exits.
struct Play {
    flags: &'static [&'static str],
    command: &'static str,
    exit: i32,
}

const OBSERVED: Play = Play {
    flags: &["--service=mysql"],
    command: "./deploy.sh",
    exit: 0,
};
const ENFORCED: Play = Play {
    flags: &["--policy=policy.yaml"],
    command: "./deploy.sh",
    exit: 1,
};
const REHEARSED: Play = Play {
    flags: &["--service=mysql", "--down=github"],
    command: "./deploy.sh",
    exit: 1,
};
/// The deployment as it is after somebody has mended it.
const MENDED: Play = Play {
    flags: &["--policy=policy.yaml"],
    command: "curl -fsS -o /dev/null http://mirror.internal/mysql/my.cnf && echo deploy.mysql.config 1 0 >/dev/tcp/metrics.internal/2003",
    exit: 0,
};

const HISTORY: [Play; 9] = [
    OBSERVED, OBSERVED, OBSERVED, OBSERVED, ENFORCED, ENFORCED, REHEARSED, MENDED, MENDED,
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(blackstart) = arguments.next() else {
        eprintln!("blackstart-record-demo: say which blackstart binary to record with");
        return ExitCode::from(2);
    };
    let blackstart = fs::canonicalize(&blackstart)
        .unwrap_or_else(|e| panic!("find {}: {e}", blackstart.display()));
    let to = arguments
        .next()
        .unwrap_or_else(|| workspace::root().join("tests/data/demo-history"));
    fs::create_dir_all(&to).expect("make the directory for the reports");
    let world = blackstart_lab::demo::world("record-demo");
    for (number, play) in HISTORY.iter().enumerate() {
        let report = recorded(&world, &blackstart, play);
        let mut normal = Normal::new(number, &world);
        let text = format!("{:#}\n", normal.value(report, ""));
        fs::write(to.join(format!("{number}.json")), text).expect("write a report");
    }
    ExitCode::SUCCESS
}

/// One run on the demo's host.
fn recorded(world: &World, blackstart: &Path, play: &Play) -> Value {
    let demo = workspace::root().join("examples/demo");
    let report = world.dir().join("report.json");
    let mut line = vec![
        "env".to_owned(),
        format!("--chdir={}", demo.display()),
        blackstart.display().to_string(),
        "run".to_owned(),
        "--catalog=catalog".to_owned(),
        "--notify=none".to_owned(),
        format!("--report={}", report.display()),
    ];
    line.extend(play.flags.iter().map(|&flag| flag.to_owned()));
    line.push("--".to_owned());
    match play.command {
        "./deploy.sh" => line.push(play.command.to_owned()),
        script => line.extend(["bash", "-c", script].map(str::to_owned)),
    }
    let path = format!(
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}",
        demo.join("tools").display()
    );
    let ended = world
        .host()
        .command(&line)
        .env("PATH", path)
        .env("BLACKSTART_STATE", world.dir().join("state"))
        .env("MYSQL_ETC", world.dir().join("etc-mysql"))
        .output()
        .expect("start a run");
    assert_eq!(
        ended.status.code(),
        Some(play.exit),
        "{line:?}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    serde_json::from_slice(&fs::read(&report).expect("read the report")).expect("it is JSON")
}

/// What stands for what in one report.
struct Normal {
    number: usize,
    /// Places of this machine, and what they are called.
    places: Vec<(String, &'static str)>,
    /// Times in their order.
    times: BTreeMap<String, String>,
    numbers: BTreeMap<u64, u64>,
    temporary: Vec<String>,
    id: String,
    host: String,
}

impl Normal {
    fn new(number: usize, world: &World) -> Self {
        Self {
            number,
            places: vec![
                (workspace::root().display().to_string(), "/opt/blackstart"),
                (world.dir().display().to_string(), "/srv/demo"),
            ],
            times: BTreeMap::new(),
            numbers: BTreeMap::new(),
            temporary: Vec::new(),
            id: String::new(),
            host: String::new(),
        }
    }

    /// The value at `key` of a report; the report itself where that is empty.
    fn value(&mut self, value: Value, key: &str) -> Value {
        if key.is_empty() {
            self.learn(&value);
        }
        match value {
            Value::Object(entries) => {
                let normal: Map<String, Value> = entries
                    .into_iter()
                    .map(|(key, value)| {
                        let value = match key.as_str() {
                            "usage" => taken(value),
                            "kernel" => json!({"release": "6.12.0", "features": value["features"]}),
                            "host" => json!("db1"),
                            "listener_pid" if value.is_u64() => json!(999),
                            _ if key.ends_with("_seconds") && value.as_f64() != Some(0.0) => {
                                taken(value)
                            }
                            "flows" | "delegates" => self.rows(value, &key),
                            "pid" => value
                                .as_u64()
                                .map_or(value, |pid| json!(self.numbers[&pid])),
                            // How much a server says depends on its version.
                            "bytes_sent" | "bytes_received" if value.is_u64() => json!(100),
                            _ => self.value(value, &key),
                        };
                        (key, value)
                    })
                    .collect();
                Value::Object(normal)
            }
            Value::Array(values) => values
                .into_iter()
                .map(|value| self.value(value, key_of_entries(key)))
                .collect(),
            Value::String(text) => Value::String(self.text(text)),
            other => other,
        }
    }

    /// Rows whose order is that of the kernel's tables.
    fn rows(&mut self, value: Value, key: &str) -> Value {
        let mut rows = match self.value(value, key) {
            Value::Array(rows) => rows,
            other => return other,
        };
        let place = |row: &Value| {
            let keys = ["name", "path", "protocol", "address", "port", "verdict"];
            let words: Vec<String> = keys.iter().map(|&key| row[key].to_string()).collect();
            (row["subject"].as_u64(), words)
        };
        rows.sort_by_cached_key(place);
        Value::Array(rows)
    }

    /// What there is to be replaced.
    fn learn(&mut self, report: &Value) {
        self.id = report["run"]["id"].as_str().expect("an id").to_owned();
        self.host = report["run"]["host"].as_str().expect("a host").to_owned();
        let mut pids = Vec::new();
        let mut times = Vec::new();
        walk(report, &mut |key, value| match value {
            Value::String(text) if is_time(text) => times.push(text.clone()),
            Value::Number(pid) if key == "pid" => pids.extend(pid.as_u64()),
            _ => {}
        });
        times.sort_unstable();
        times.dedup();
        let day = self.number + 1;
        self.times = (0..)
            .zip(times)
            .map(|(rank, time)| {
                let (seconds, millis) = (rank / 1000, rank % 1000);
                (
                    time,
                    format!("2026-11-{day:02}T03:00:{seconds:02}.{millis:03}000Z"),
                )
            })
            .collect();
        pids.sort_unstable();
        pids.dedup();
        self.numbers = pids.into_iter().zip(1000..).collect();
    }

    fn text(&mut self, text: String) -> String {
        if text == self.host {
            return "db1".to_owned();
        }
        let mut text = text;
        for (time, normal) in &self.times {
            text = text.replace(time, normal);
        }
        text = text.replace(&format!(" on {}", self.host), " on db1");
        // What git calls itself.
        if let Some((before, after)) = text.split_once("fetch-pack ") {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            text = format!("{before}fetch-pack 999{after}");
        }
        text = text.replace(
            &self.id,
            &format!("0193f8c2-0000-7000-8000-{:012}", self.number),
        );
        // Made up when the machine was furnished.
        if text.starts_with("fe80::") {
            return "fe80::1".to_owned();
        }
        for (place, name) in &self.places {
            text = text.replace(place, name);
        }
        self.temporary(text)
    }

    /// What `mktemp` makes up.
    fn temporary(&mut self, text: String) -> String {
        const MADE_UP: &str = "/tmp/tmp.";
        let mut rest = text.as_str();
        let mut normal = String::new();
        while let Some(at) = rest.find(MADE_UP) {
            let (before, from) = rest.split_at(at + MADE_UP.len());
            let end = from
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(from.len());
            let (name, after) = from.split_at(end);
            let known = self.temporary.iter().position(|one| one == name);
            let number = known.unwrap_or_else(|| {
                self.temporary.push(name.to_owned());
                self.temporary.len() - 1
            });
            normal.push_str(&format!("{before}{number:010}"));
            rest = after;
        }
        normal + rest
    }
}

/// Entries of a list have the list's key, so that none is taken for the report.
fn key_of_entries(key: &str) -> &str {
    if key.is_empty() { "entries" } else { key }
}

/// What a run took.
fn taken(usage: Value) -> Value {
    match usage {
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, taken(value)))
            .collect(),
        Value::Number(number) if number.is_f64() => json!(1.5),
        Value::Number(_) => json!(4096),
        other => other,
    }
}

fn is_time(text: &str) -> bool {
    text.len() == "2026-11-28T12:00:00.000000Z".len()
        && text.ends_with('Z')
        && text.as_bytes()[10] == b'T'
        && text.as_bytes()[19] == b'.'
}

fn walk(value: &Value, each: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            each(key, value);
            walk(value, each);
        }),
        Value::Array(values) => values.iter().for_each(|value| {
            each("", value);
            walk(value, each);
        }),
        _ => {}
    }
}
