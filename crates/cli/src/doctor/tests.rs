use std::path::PathBuf;

use blackstart_guard::support::{Bpf, Cgroup2Mount};

use super::*;
use crate::plain::Paint;

/// A current server: unified cgroups, systemd, a stub resolver.
fn good() -> Support {
    let yes = Some(true);
    Support {
        euid: 0,
        capabilities: Some(Capabilities {
            bpf: true,
            sys_admin: true,
            net_admin: true,
            perfmon: true,
            net_raw: true,
            sys_resource: true,
        }),
        release: "6.12.0-generic".to_owned(),
        arch: "x86_64".to_owned(),
        btf: yes,
        cgroup2: Cgroup2::Mounted(Cgroup2Mount {
            path: PathBuf::from("/sys/fs/cgroup"),
            hybrid: false,
            read_only: false,
            controllers: Some(["cpu", "memory", "pids"].map(str::to_owned).into()),
            kill: yes,
        }),
        bpffs: Some(Some(PathBuf::from("/sys/fs/bpf"))),
        lockdown: Some(Lockdown::Integrity),
        unprivileged_bpf_disabled: Some(2),
        lsm: Some(vec!["lockdown".to_owned(), "bpf".to_owned()]),
        bpf: Bpf {
            cgroup_skb: yes,
            connect: yes,
            sendmsg: yes,
            sock_create: yes,
            sock_release: yes,
            tracing: yes,
            connect_unix: yes,
            set_retval: yes,
            bounded_loop: yes,
            ring_buffer: yes,
            sock_ops: yes,
            sk_msg: yes,
            socket_names: yes,
        },
        clone_into_cgroup: yes,
        seccomp: yes,
        namespaces: yes,
        systemd: yes,
        systemd_answers: yes,
        nscd: false,
        resolved: true,
        resolvers: Some(vec!["127.0.0.53".parse().unwrap()]),
        locked_memory: 8 << 20,
    }
}

fn told(host: &Support) -> (Fitness, String) {
    let lines = lines(host);
    (Fitness::of(&lines), human(&lines, Paint::None))
}

#[test]
fn all_good() {
    let (fitness, text) = told(&good());
    assert_eq!(fitness, Fitness::Enforce);
    insta::assert_snapshot!(text);
}

#[test]
fn no_root() {
    let host = Support {
        euid: 1000,
        capabilities: Some(Capabilities::default()),
        bpf: Bpf::default(),
        systemd_answers: None,
        ..good()
    };
    let (fitness, text) = told(&host);
    assert_eq!(fitness, Fitness::Unguarded);
    insta::assert_snapshot!(text);
}

#[test]
fn no_cgroup2() {
    let (fitness, text) = told(&Support {
        cgroup2: Cgroup2::Absent,
        ..good()
    });
    assert_eq!(fitness, Fitness::Unguarded);
    insta::assert_snapshot!(text);
}

#[test]
fn no_kernel_types() {
    let (fitness, text) = told(&Support {
        btf: Some(false),
        ..good()
    });
    assert_eq!(fitness, Fitness::Unguarded);
    insta::assert_snapshot!(text);
}

#[test]
fn old_kernel() {
    let no = Some(false);
    let mut host = Support {
        release: "5.10.0-30-amd64".to_owned(),
        bpf: Bpf {
            connect_unix: no,
            set_retval: no,
            bounded_loop: no,
            ..good().bpf
        },
        ..good()
    };
    if let Cgroup2::Mounted(mount) = &mut host.cgroup2 {
        mount.kill = no;
        mount.hybrid = true;
        mount.controllers = Some([].into());
    }
    let (fitness, text) = told(&host);
    assert_eq!(fitness, Fitness::Unguarded);
    insta::assert_snapshot!(text);
}

/// Debian 12 with systemd-resolved: everything but the hooks that would keep lookups from it.
#[test]
fn kernel_without_unix_hooks() {
    let host = Support {
        release: "6.1.0-37-amd64".to_owned(),
        lsm: Some(vec!["lockdown".to_owned()]),
        bpf: Bpf {
            connect_unix: Some(false),
            ..good().bpf
        },
        ..good()
    };
    let (fitness, text) = told(&host);
    assert_eq!(fitness, Fitness::Observe);
    insta::assert_snapshot!(text);
    let (fitness, text) = told(&Support {
        lsm: good().lsm,
        ..host.clone()
    });
    assert_eq!(fitness, Fitness::Enforce);
    assert!(text.contains("refused by its name"), "{text}");
    assert_eq!(
        told(&Support {
            resolved: false,
            ..host
        })
        .0,
        Fitness::Enforce
    );
}

#[test]
fn locked_memory_matters_to_old_kernels_only() {
    let mut host = Support {
        locked_memory: 64 << 10,
        ..good()
    };
    host.capabilities.as_mut().unwrap().sys_resource = false;
    assert_eq!(told(&host).0, Fitness::Enforce);
    host.release = "5.10.0-30-amd64".to_owned();
    assert_eq!(told(&host).0, Fitness::Unguarded);
    host.locked_memory = u64::MAX;
    assert_eq!(told(&host).0, Fitness::Enforce);
    assert_eq!(version("6.1.0-37-amd64"), Some((6, 1)));
    assert_eq!(version("six"), None);
}

#[test]
fn confidentiality() {
    let (fitness, text) = told(&Support {
        lockdown: Some(Lockdown::Confidentiality),
        ..good()
    });
    assert_eq!(fitness, Fitness::Unguarded);
    insta::assert_snapshot!(text);
}

/// A rescue shell: little is mounted, so little is told. That is not a no.
#[test]
fn little_is_told() {
    let host = Support {
        lockdown: None,
        lsm: None,
        bpffs: Some(None),
        systemd: Some(false),
        systemd_answers: None,
        resolved: false,
        resolvers: Some(vec!["10.0.0.2".parse().unwrap()]),
        bpf: Bpf {
            tracing: None,
            ..good().bpf
        },
        ..good()
    };
    let (fitness, text) = told(&host);
    assert_eq!(fitness, Fitness::Enforce);
    insta::assert_snapshot!(text);
}

/// What `doctor` advises can be typed.
#[test]
fn accepted_gaps_exist() {
    let none = Support {
        bpf: Bpf {
            ring_buffer: Some(true),
            ..NOTHING
        },
        bpffs: Some(None),
        capabilities: Some(Capabilities {
            bpf: true,
            net_admin: true,
            perfmon: true,
            ..Capabilities::default()
        }),
        ..good()
    };
    let kinds = blackstart_guard::Need::ALL.map(blackstart_guard::Need::kind);
    let mut advised = 0;
    for line in lines(&none) {
        let Some((_, typed)) = line.enforce.1.split_once("--accept-gap ") else {
            continue;
        };
        for kind in typed.split(" and ") {
            assert!(kinds.contains(&kind), "{kind}");
            advised += 1;
        }
    }
    assert_eq!(advised, 9);
}

const NOTHING: Bpf = Bpf {
    cgroup_skb: Some(false),
    connect: Some(false),
    sendmsg: Some(false),
    sock_create: Some(false),
    sock_release: Some(false),
    tracing: Some(false),
    connect_unix: Some(false),
    set_retval: Some(false),
    bounded_loop: Some(false),
    ring_buffer: Some(false),
    sock_ops: Some(false),
    sk_msg: Some(false),
    socket_names: Some(false),
};

#[test]
fn the_document_says_the_same() {
    let lines = lines(&Support {
        btf: Some(false),
        ..good()
    });
    let document = document(&lines);
    assert_eq!(document["fitness"], "unguarded");
    assert_eq!(document["facts"].as_array().unwrap().len(), lines.len());
    insta::assert_json_snapshot!(document["facts"][2]);
}

#[test]
fn exit_codes_are_public() {
    let codes = [Fitness::Enforce, Fitness::Observe, Fitness::Unguarded].map(Fitness::exit_code);
    assert_eq!(codes, [0, 1, 2]);
}
