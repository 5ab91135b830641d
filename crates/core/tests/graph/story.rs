//! Catalogs, and reports that are put together step by step.

use blackstart_core::catalog::{Catalog, Phase, read};
use blackstart_core::graph::loops::{Loop, loops};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, Input, NodeId, Observed, build, named_in, own_scripts};
use blackstart_core::report::{
    Attribution, Coverage, Delegate, Flow, Guarded, Kernel, Mode, Name, Outcome, Report, Run,
    SCHEMA_VERSION, Script, Subject, Usage, Verdict,
};

pub(crate) fn catalog(services: &[&str]) -> Catalog {
    let text: String = services
        .iter()
        .map(|keys| format!("---\napiVersion: blackstart.dev/v1\nkind: Service\n{keys}\n"))
        .collect();
    let reading = read(&[("c.yaml", &text)]);
    assert!(!reading.partial, "{:#?}", reading.diagnostics);
    reading.catalog
}

/// GitHub's example: what is served by the database that is deployed.
pub(crate) fn example() -> Catalog {
    catalog(&[
        "name: mysql\nowner: team-db\ntier: 1\nprovides: [10.20.0.0/16:3306, unix:/run/mysqld.sock]",
        "name: github\nowner: team-git\ntier: 1\nprovides: [.github.com]\nneeds: [mysql]",
        "name: migrations\ntier: 3\nprovides: [migrations.internal]\nneeds: [github]",
        "name: mirror\ntier: 2\nprovides: [mirror.internal]",
    ])
}

pub(crate) fn time(second: u32) -> String {
    format!("2026-05-04T12:00:{second:02}.000000Z")
}

/// A report that is put together step by step.
#[derive(Debug)]
pub(crate) struct Story(pub(crate) Report);

impl Story {
    pub(crate) fn of(service: &str, command: &[&str]) -> Self {
        Self(Report {
            schema_version: SCHEMA_VERSION,
            run: Run {
                id: format!("run-of-{service}"),
                service: (!service.is_empty()).then(|| service.to_owned()),
                owner: None,
                command: command.iter().map(|&word| word.to_owned()).collect(),
                host: "db1".to_owned(),
                mode: Mode::Observe,
                policy: None,
                started: time(0),
                ended: Some(time(59)),
                exit_code: Some(0),
                limits: Default::default(),
                reloads: vec![],
                break_glass: None,
                drill: None,
                attached: None,
                followed: Vec::new(),
                usage: Usage::default(),
                kernel: Kernel {
                    release: "6.12".to_owned(),
                    features: vec![],
                },
                guarded: Guarded::Yes,
                addresses: vec!["10.20.0.4".parse().unwrap()],
                resolvers: vec![],
                search: vec![],
                scripts: vec![],
            },
            subjects: vec![],
            names: vec![],
            flows: vec![],
            delegates: vec![],
            findings: vec![],
            coverage: Coverage::default(),
        })
    }

    /// A process with its parent's number, 0 for none. Its number is the next one.
    pub(crate) fn process(mut self, parent: u64, exe: &str, argv: &[&str]) -> Self {
        let id = self.0.subjects.len() as u64 + 1;
        self.0.subjects.push(Subject {
            id,
            pid: 100 + id as u32,
            parent: (parent != 0).then_some(parent),
            exe: exe.to_owned(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            argv_truncated: false,
            started: time(1),
            ended: Some(time(50)),
            exit: Some(0),
            found: false,
        });
        self
    }

    pub(crate) fn reaches(self, subject: u64, name: &str, address: &str, port: u16) -> Self {
        self.meets(subject, name, address, port, Verdict::Allow)
    }

    pub(crate) fn meets(
        mut self,
        subject: u64,
        name: &str,
        address: &str,
        port: u16,
        verdict: Verdict,
    ) -> Self {
        let second = self.0.flows.len() as u32 + 2;
        self.0.flows.push(Flow {
            subject: (subject != 0).then_some(subject),
            name: (!name.is_empty()).then(|| name.to_owned()),
            address: address.parse().unwrap(),
            port,
            protocol: "tcp".to_owned(),
            verdict,
            rule: "default".to_owned(),
            attempts: 1,
            outcome: Outcome::Connected,
            bytes_sent: 100,
            first_seen: time(second),
            last_seen: time(second),
            attribution: Attribution::Exact,
        });
        self
    }

    pub(crate) fn asks(
        mut self,
        subject: u64,
        name: &str,
        verdict: Verdict,
        chain: &[&str],
    ) -> Self {
        self.0.names.push(Name {
            name: name.to_owned(),
            qtype: "A".to_owned(),
            subject: Some(subject),
            verdict,
            rule: "default".to_owned(),
            queries: 2,
            first_seen: time(2),
            last_seen: time(3),
            addresses: vec![],
            chain: chain.iter().map(|&name| name.to_owned()).collect(),
        });
        self
    }

    pub(crate) fn opens(self, subject: u64, path: &str) -> Self {
        self.opens_judged(subject, path, Verdict::Allow, "default")
    }

    pub(crate) fn opens_judged(
        mut self,
        subject: u64,
        path: &str,
        verdict: Verdict,
        rule: &str,
    ) -> Self {
        self.0.delegates.push(Delegate {
            subject: Some(subject),
            path: path.to_owned(),
            listener_pid: None,
            listener_exe: None,
            reached: None,
            verdict,
            rule: rule.to_owned(),
            attempts: 1,
        });
        self
    }

    /// What the guard does at the end of a run: the texts of the deployment's own scripts.
    pub(crate) fn scripts(mut self, texts: &[(&str, &str)]) -> Self {
        self.0.run.scripts = own_scripts(&self.0, Some("/srv/deploy"))
            .into_iter()
            .map(|script| Script {
                names: texts
                    .iter()
                    .find(|(path, _)| *path == script.path)
                    .map(|(_, text)| named_in(&self.0, text))
                    .unwrap_or_default(),
                path: script.path,
                subjects: script.subjects,
            })
            .collect();
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Report)) -> Self {
        change(&mut self.0);
        self
    }
}

/// `./deploy.sh` as process 1.
pub(crate) fn deploy() -> Story {
    Story::of("mysql", &["./deploy.sh"]).process(0, "./deploy.sh", &["/bin/bash", "./deploy.sh"])
}

pub(crate) fn joined(catalog: &Catalog, stories: &[&Story]) -> Graph {
    let runs: Vec<_> = stories
        .iter()
        .map(|story| Observed {
            report: &story.0,
            phase: Phase::Deploy,
        })
        .collect();
    build(&Input {
        catalog,
        runs: &runs,
        imports: &[],
    })
}

pub(crate) fn id(graph: &Graph, name: &str) -> NodeId {
    graph.find(name).unwrap()
}

pub(crate) fn loops_of(graph: &Graph) -> Vec<Loop> {
    loops(graph, &Recovery::of(graph), &[])
}
