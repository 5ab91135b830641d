//! `blackstart policy explain`: what would become of an attempt, and why. What is said of a rule here is said of it
//! in a run's summary as well.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use blackstart_core::explain::{
    Detail, Explanation, Judged, Question, Step, Through, Told, explain as explained,
};
use blackstart_core::policy::{Destination, Layer, Policy, Rank, Severity};
use blackstart_core::record::Verdict;
use blackstart_core::tables::Protocol;

use crate::FAILED;
use crate::answers;
use crate::args::{self, Explain, Format};
use crate::layers::{self, Files};
use crate::plain::{Paint, cut, plain};
use crate::resolve::{self, Asked, Problem, Surroundings};

/// How many rules of each kind are shown.
const SHOWN: usize = 10;
/// And where the rest is.
const OTHERS: &str = "--format json has them";
/// Longest sentence of a policy that is shown.
const SENTENCE_WIDTH: usize = 300;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// The question makes no sense.
    Question(Vec<Problem>),
    /// The policy cannot be used.
    Policy(Vec<Problem>),
}

impl Wrong {
    /// What is wrong.
    pub(crate) fn problems(&self) -> &[Problem] {
        match self {
            Self::Question(problems) | Self::Policy(problems) => problems,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Question(_) => FAILED,
            Self::Policy(_) => 1,
        }
    }
}

/// The answer, as it is shown.
pub(crate) fn explain(
    typed: &Explain,
    around: &Surroundings,
    paint: Paint,
) -> Result<String, Wrong> {
    let question =
        question(typed).map_err(|message| Wrong::Question(vec![Problem::Message(message)]))?;
    let mut files = Files::default();
    let mut layers = files.guardrails(&around.guardrails);
    // One of the host's guardrails is read with them.
    let another = |path: &&Path| !layers::lies_in(path, &around.guardrails);
    if let Some(path) = typed.policy.as_deref().filter(another) {
        layers.push(files.layer(path, typed.guardrail));
    }
    let depends = !typed.as_user && layers.iter().any(Layer::has_rules_not_final);
    let asked = Asked {
        layers,
        catalog: typed.catalog.as_deref(),
        mode: None,
        service: None,
    };
    let effective = resolve::resolved(files, asked, around).map_err(Wrong::Policy)?;
    let tables = resolve::compiled(&effective).map_err(|problem| Wrong::Policy(vec![problem]))?;
    let mut explanation = explained(&effective.policy, &tables, &question);
    if depends {
        let remark = "this is how root is judged; for a caller without root every rule of a guardrail is final (--as-user)";
        explanation.remarks.push(remark.to_owned());
    }
    let warnings = effective.warnings.iter();
    let warnings = warnings
        .filter(|warning| warning.severity == Severity::Warning)
        .count();
    Ok(match typed.format {
        Format::Human => {
            let mut text = human(&explanation, &effective.policy, paint);
            if warnings > 0 {
                let _ = writeln!(text, "note      `policy check` has {warnings} to look at");
            }
            text
        }
        Format::Json => {
            let Policy { mode, default, .. } = effective.policy;
            answers::printed(&answers::Explained::new(mode, default, &explanation))
        }
    })
}

fn question(typed: &Explain) -> Result<Question, String> {
    let (to, port) = Destination::parse(&typed.destination)?;
    if typed.address.is_some() && !matches!(to, Destination::Name(_)) {
        return Err(
            "only a name leads to an address; leave `--address` out, or give the name".to_owned(),
        );
    }
    if typed.protocol.is_some() && matches!(to, Destination::Unix(_)) {
        return Err("a unix socket has no protocol; leave `--protocol` out".to_owned());
    }
    Ok(Question {
        to,
        port,
        address: typed.address.map(|address| address.to_canonical()),
        process: typed.process.clone(),
        ancestors: typed.ancestor.clone(),
        protocol: match typed.protocol {
            None | Some(args::Protocol::Tcp) => Protocol::Tcp,
            Some(args::Protocol::Udp) => Protocol::Udp,
            Some(args::Protocol::Other) => Protocol::Other,
        },
    })
}

/// For people.
pub(crate) fn human(explanation: &Explanation, policy: &Policy, paint: Paint) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {}",
        plain(&explanation.destination),
        words(explanation.verdict, paint)
    );
    if let Some(judged) = explanation.deciding() {
        reasons(&mut out, explanation.decided_by, judged);
        losers(&mut out, judged, SHOWN, OTHERS);
    }
    // The other step of the two, where there are two.
    let other = match explanation.decided_by {
        Step::Lookup => (Step::Connect, &explanation.connect),
        Step::Connect => (Step::Lookup, &explanation.lookup),
    };
    if let (step, Some(judged)) = other {
        let what = match step {
            Step::Lookup => "lookup  ",
            Step::Connect => "connect ",
        };
        let _ = writeln!(
            out,
            "\n{what}  {}: {}{}",
            words(judged.verdict, paint),
            plain(&judged.rule.text),
            place(&judged.rule)
        );
        losers(&mut out, judged, SHOWN, OTHERS);
    }
    if !explanation.missed.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("does not apply"));
        for missed in explanation.missed.iter().take(SHOWN) {
            let _ = writeln!(
                out,
                "  {}{}: {}",
                plain(&missed.rule.text),
                place(&missed.rule),
                plain(&missed.why.to_string())
            );
        }
        more(&mut out, explanation.missed.len(), SHOWN, OTHERS);
    }
    out.push('\n');
    for remark in &explanation.remarks {
        let _ = writeln!(out, "note      {}", plain(remark));
    }
    let _ = writeln!(
        out,
        "policy    mode: {}, default: {}",
        mode(policy),
        policy.default
    );
    out
}

fn mode(policy: &Policy) -> &'static str {
    match policy.mode {
        blackstart_core::report::Mode::Observe => "observe",
        blackstart_core::report::Mode::Enforce => "enforce",
    }
}

fn words(verdict: Verdict, paint: Paint) -> String {
    match verdict {
        Verdict::Allow => paint.good("allowed"),
        Verdict::Deny => paint.bad("refused"),
        Verdict::WouldDeny => paint.doubtful("allowed, and recorded: enforce would refuse it"),
        Verdict::Waived => paint.doubtful("allowed by a waiver"),
        Verdict::BreakGlass => paint.doubtful("allowed, the glass is broken"),
    }
}

fn reasons(out: &mut String, step: Step, judged: &Judged) {
    let of_lookup = step == Step::Lookup;
    let _ = writeln!(
        out,
        "    rule  {}{}",
        plain(&judged.rule.text),
        place(&judged.rule)
    );
    for line in judged.rule.rule.iter().flat_map(lines) {
        let _ = writeln!(out, "    {line}");
    }
    if let Some(through) = &judged.through {
        let _ = match through {
            Through::Name(name) if !of_lookup => {
                writeln!(out, "    by    the lease of the name {}", plain(name))
            }
            through => writeln!(out, "    by    {}", plain(&through.to_string())),
        };
    }
    if let Some(on_match) = &judged.on_match {
        let would = if judged.verdict == Verdict::Deny {
            ""
        } else {
            "would be: "
        };
        let _ = writeln!(out, "    ends  {would}{}", ends(on_match, of_lookup));
    }
    if judged.fails_run {
        out.push_str("    exit  120, if the command succeeds\n");
    }
    if judged.ambiguous {
        out.push_str("    note  a name of this address is denied; what is said of the address lets it pass\n");
    }
}

/// How a refusal ends for the process, by the words of `on_match`.
fn ends(on_match: &str, of_lookup: bool) -> String {
    match (on_match, of_lookup) {
        ("blackhole", true) => "never: the lookup gets no answer".to_owned(),
        ("blackhole", false) => "never: what is sent is lost, and the process waits".to_owned(),
        (_, true) => {
            "at once: the lookup gets the final answer that there is no such name".to_owned()
        }
        ("refuse", false) => "at once, with ECONNREFUSED".to_owned(),
        ("reset", false) => "at once, with ECONNRESET".to_owned(),
        (errno, false) => format!("at once, with {}", errno.trim_start_matches("refuse ")),
    }
}

/// What is to be known of a rule besides its text and its place: each with the word that says what it is.
pub(crate) fn lines(rule: &Detail) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |word: &str, text: &str| {
        lines.push(format!("{word:<5} {}", cut(&plain(text), SENTENCE_WIDTH)));
    };
    if let Some(reason) = &rule.reason {
        line("why", reason);
    }
    if let Some(fix) = &rule.fix {
        line("fix", fix);
    }
    if let Some(owner) = &rule.owner {
        line("owner", owner);
    }
    if rule.path.len() > 1 {
        line("path", &rule.path.join(" → "));
    }
    if let Some(expires) = &rule.expires {
        line("until", expires);
    }
    if rule.rank == Rank::Final {
        line("final", "no waiver and no other rule goes before it");
    }
    lines
}

/// ` (deploy.yaml:7)`, for a rule that stands in a policy.
pub(crate) fn place(rule: &Told) -> String {
    let detail = rule.rule.as_ref();
    detail.map_or_else(String::new, |detail| {
        format!(" ({}:{})", plain(&detail.file), detail.line)
    })
}

/// In a run's summary: by what the attempt was the rule's, the lease or the addresses.
pub(crate) fn through(out: &mut String, judged: &Judged, address: Option<IpAddr>) {
    let by = match (&judged.through, address) {
        (Some(Through::Name(name)), Some(address)) => {
            format!("the lease of the name {name} at {address}")
        }
        // It is what the refusal is told of.
        (Some(Through::Name(_) | Through::Path(_)) | None, _) => return,
        (Some(through), _) => through.to_string(),
    };
    let _ = writeln!(out, "    from  {}", plain(&by));
}

/// What the rule goes before, so many of them and who has the rest.
pub(crate) fn losers(out: &mut String, judged: &Judged, shown: usize, others: &str) {
    for lost in judged.lost.iter().take(shown) {
        let to = match &lost.to {
            Some(to) if to.id != judged.rule.id => {
                format!(" (the other is {}{})", plain(&to.text), place(to))
            }
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "    over  {}{}: {}{to}",
            plain(&lost.rule.text),
            place(&lost.rule),
            lost.why
        );
    }
    more(out, judged.lost.len(), shown, others);
}

fn more(out: &mut String, all: usize, shown: usize, others: &str) {
    if all > shown {
        let _ = writeln!(out, "    … and {} more; {others}", all - shown);
    }
}
