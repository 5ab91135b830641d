//! What is said while a run is on: one line for each new kind of refusal, and for what fails meanwhile.

use blackstart_core::report::{Attached, Verdict};
use blackstart_guard::{Notice, Refused};

use crate::plain::{Paint, cut, plain};
use crate::summary::{counted, label};

/// Longest text that a process or a policy may put into the line.
const PART_WIDTH: usize = 200;

/// What else the line is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telling {
    /// `-q`: refusals are left to the summary. What fails meanwhile is told all the same.
    pub(crate) quiet: bool,
    /// Colours.
    pub(crate) paint: Paint,
}

/// The line, ending in a line feed. None for a gap: the terminal is the command's, and the summary
/// lists them all. None for another run's end.
pub(crate) fn line(notice: &Notice, telling: Telling) -> Option<String> {
    let paint = telling.paint;
    match notice {
        Notice::Refused(_) if telling.quiet => None,
        Notice::Refused(refused) => Some(refusal(refused, paint)),
        Notice::Warning(text) => Some(format!(
            "blackstart: {} {}\n",
            paint.doubtful("warning:"),
            part(text)
        )),
        Notice::Attached { to, processes } => Some(attached(to, *processes)),
        Notice::Gap(_) | Notice::Adopted(_) | Notice::Under(_) => None,
    }
}

fn attached(to: &Attached, processes: usize) -> String {
    let open = to.connections.len() as u64;
    let cut = to.connections.iter().filter(|one| one.cut).count();
    let cut = if cut > 0 {
        format!(", {cut} of them cut")
    } else {
        String::new()
    };
    format!(
        "blackstart: attached to {} with {}; {} open before{cut}\n",
        part(&to.cgroup),
        if processes == 1 {
            "1 process".to_owned()
        } else {
            format!("{processes} processes")
        },
        counted(open, "connection"),
    )
}

fn refusal(refused: &Refused, paint: Paint) -> String {
    let who = match refused.exe.as_deref() {
        Some(exe) => label(exe, &refused.argv),
        None => "a process".to_owned(),
    };
    let was = match refused.verdict {
        Verdict::WouldDeny => paint.doubtful("would be refused"),
        _ => paint.bad("was refused"),
    };
    let place = refused.place.as_ref();
    let place = place.map(|place| format!(", {}:{}", part(&place.file), place.line));
    let why = refused
        .reason
        .as_deref()
        .map(|reason| format!(": {}", part(reason)));
    format!(
        "blackstart: {who} (pid {}) {was} {}{} [{}{}]\n",
        refused.pid,
        part(&refused.destination),
        why.unwrap_or_default(),
        part(&refused.rule),
        place.unwrap_or_default(),
    )
}

fn part(text: &str) -> String {
    cut(&plain(text), PART_WIDTH)
}

#[cfg(test)]
mod tests {
    use blackstart_core::report::RulePlace;

    use super::*;

    fn refused(verdict: Verdict) -> Refused {
        Refused {
            pid: 4711,
            exe: Some("/usr/bin/curl".to_owned()),
            argv: vec!["curl".to_owned()],
            destination: "api.github.com:443".to_owned(),
            verdict,
            rule: "deny .github.com".to_owned(),
            place: Some(RulePlace {
                file: "p.yaml".to_owned(),
                line: 4,
            }),
            reason: Some("served by this database".to_owned()),
            fix: None,
        }
    }

    fn told(notice: Notice) -> String {
        told_of(notice, false).unwrap()
    }

    fn told_of(notice: Notice, quiet: bool) -> Option<String> {
        let telling = Telling {
            quiet,
            paint: Paint::None,
        };
        line(&notice, telling)
    }

    #[test]
    fn a_script_is_called_as_in_the_summary() {
        let mut refused = refused(Verdict::Deny);
        refused.exe = Some("/usr/bin/python3.11".to_owned());
        refused.argv = ["/usr/bin/python3", "./tools/schema-check", "my.cnf"]
            .map(str::to_owned)
            .to_vec();
        let told = told(Notice::Refused(refused));
        assert!(
            told.starts_with("blackstart: schema-check (pid 4711) was"),
            "{told}"
        );
    }

    #[test]
    fn quiet_hides_refusals_and_no_warning() {
        let refused = Notice::Refused(refused(Verdict::Deny));
        assert_eq!(told_of(refused, true), None);
        let warning = Notice::Warning("the disk is full".to_owned());
        assert_eq!(
            told_of(warning, true).unwrap(),
            "blackstart: warning: the disk is full\n"
        );
    }

    #[test]
    fn a_refusal_names_who_what_why_and_where() {
        assert_eq!(
            told(Notice::Refused(refused(Verdict::Deny))),
            "blackstart: curl (pid 4711) was refused api.github.com:443: served by this database \
             [deny .github.com, p.yaml:4]\n"
        );
    }

    #[test]
    fn in_observe_it_is_a_would() {
        assert!(
            told(Notice::Refused(refused(Verdict::WouldDeny)))
                .contains("curl (pid 4711) would be refused")
        );
    }

    #[test]
    fn without_a_rule_of_a_policy_there_is_no_place() {
        let mut refused = refused(Verdict::Deny);
        refused.rule = "default".to_owned();
        refused.place = None;
        refused.reason = None;
        refused.exe = None;
        assert_eq!(
            told(Notice::Refused(refused)),
            "blackstart: a process (pid 4711) was refused api.github.com:443 [default]\n"
        );
    }

    #[test]
    fn it_is_one_line_whatever_is_in_it() {
        let nasty = "a\r\nblackstart: all is well\x1b[2K".to_owned();
        let mut refused = refused(Verdict::Deny);
        refused.exe = Some(nasty.clone());
        refused.destination = nasty.clone();
        refused.rule = nasty.clone();
        refused.reason = Some(nasty.clone());
        for notice in [Notice::Refused(refused), Notice::Warning(nasty)] {
            let line = told(notice);
            assert_eq!(line.lines().count(), 1);
            assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        }
    }
}
