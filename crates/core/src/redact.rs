//! Secrets in command lines.
//!
//! A command line goes into reports that are kept and shown around, so what looks like a secret is
//! replaced by `***`. This is a net with holes, not a promise: it knows shapes, not meanings.
//!
//! It finds: URLs behind `--notify`; values of flags and variables whose name says secret (`--token X`, `--password=X`,
//! `DB_PASSWORD=X`); headers that carry credentials; user information and secret query parameters of URLs;
//! the password flags of well-known tools (curl `-u`, mysql `-p`, redis-cli `-a`, …); and tokens whose form
//! is public (AWS key ids, GitHub, GitLab, Slack, JWT, …). A script given as one argument (`sh -c '…'`) is
//! searched word by word.
//!
//! It does not find: a secret given without any of these (`login hunter2`), one that begins with `-` after
//! a flag, one that is spread over words inside a script's quotes, one that is encoded, or one in a path.

mod word;

use std::fmt;

use regex_automata::meta::Regex;
use serde::{Deserialize, Serialize};

use crate::record::SubjectRow;

use word::{is_flag, mask_header, mask_login, mask_value, says_secret, unquote};

/// What stands in a secret's place.
pub const MASK: &str = "***";

/// What is taken for a secret: the shapes that are known, and patterns of whoever runs something.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Redaction {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    regex: Regex,
}

/// A pattern that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression: {why}")]
pub struct WrongPattern {
    /// As it was written.
    pub pattern: String,
    /// In one line.
    pub why: String,
}

/// The largest that a compiled pattern may be, in bytes: a repetition of repetitions is not worth a gigabyte.
const MOST_BYTES: usize = 1 << 20;

impl Redaction {
    /// With these regular expressions besides the shapes that are known: whatever one of them matches in an argument
    /// is masked. Matching takes time linear in the text.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, WrongPattern> {
        let patterns = patterns
            .iter()
            .map(|pattern| Pattern::new(pattern.as_ref()));
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Masks every argument whole: for whoever meant some of it to be masked, and said so wrongly.
    pub fn everything() -> Self {
        Self::new(&["(?s).+"]).expect("that is a regular expression")
    }

    /// Redact a command line as the kernel kept it: whole, or its beginning.
    pub fn of_subject(&self, row: &SubjectRow) -> Vec<String> {
        match row.argv_truncated {
            true => self.of_cut(&row.argv),
            false => self.of(&row.argv),
        }
    }

    /// What tells that something at the end is a secret may be cut off.
    fn of_cut<S: AsRef<str>>(&self, argv: &[S]) -> Vec<String> {
        let mut argv: Vec<String> = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        if let Some(last) = argv.last_mut() {
            word::mask_cut(last);
        }
        self.of(&argv)
    }

    /// Redact a command line. Doing it twice changes nothing more, unless a pattern matches the mask.
    pub fn of<S: AsRef<str>>(&self, argv: &[S]) -> Vec<String> {
        let mut masked = redact(argv);
        for pattern in &self.patterns {
            masked
                .iter_mut()
                .for_each(|argument| pattern.mask(argument));
        }
        masked
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, WrongPattern> {
        let config = Regex::config().nfa_size_limit(Some(MOST_BYTES));
        let built = Regex::builder().configure(config).build(text);
        let regex = built.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            // The parser draws the pattern with a mark below; its last line says what is wrong.
            let why = cause.unwrap_or_else(|| error.to_string());
            let why = why.lines().last().unwrap_or_default();
            WrongPattern {
                pattern: text.to_owned(),
                why: why.trim_start_matches("error: ").to_owned(),
            }
        })?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }

    fn mask(&self, argument: &mut String) {
        let mut masked = String::new();
        let mut from = 0;
        for found in self.regex.find_iter(argument.as_str()) {
            // What is empty hides nothing.
            if found.is_empty() {
                continue;
            }
            masked.push_str(&argument[from..found.start()]);
            masked.push_str(MASK);
            from = found.end();
        }
        if from > 0 {
            masked.push_str(&argument[from..]);
            *argument = masked;
        }
    }
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.patterns.iter().map(|p| p.text.as_str()).collect();
        f.write_str(&texts.join(", "))
    }
}

impl PartialEq for Redaction {
    fn eq(&self, other: &Self) -> bool {
        let texts = |of: &Self| {
            of.patterns
                .iter()
                .map(|p| p.text.clone())
                .collect::<Vec<_>>()
        };
        texts(self) == texts(other)
    }
}

impl Eq for Redaction {}

impl TryFrom<Vec<String>> for Redaction {
    type Error = WrongPattern;

    fn try_from(patterns: Vec<String>) -> Result<Self, WrongPattern> {
        Self::new(&patterns)
    }
}

impl From<Redaction> for Vec<String> {
    fn from(redaction: Redaction) -> Self {
        redaction.patterns.into_iter().map(|p| p.text).collect()
    }
}

/// Redact a command line by the shapes that are known. Doing it twice changes nothing more.
pub fn redact<S: AsRef<str>>(argv: &[S]) -> Vec<String> {
    let mut masked = pass(argv);
    // A mask may change how its neighbours read (a quote gone, a word that was no word before), so look
    // again until nothing changes. Nearly always that is at once.
    for _ in 0..MAX_PASSES {
        let again = pass(&masked);
        if again == masked {
            break;
        }
        masked = again;
    }
    masked
}

/// Far more than any text was seen to need.
const MAX_PASSES: usize = 8;

fn pass<S: AsRef<str>>(argv: &[S]) -> Vec<String> {
    let mut words = Words::default();
    argv.iter()
        .map(|argument| words.argument(argument.as_ref()))
        .collect()
}

/// What the words so far mean for the next one.
#[derive(Default)]
struct Words {
    program: Program,
    next: Next,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    #[default]
    Anything,
    /// A secret as a whole.
    Secret,
    /// `user:password`.
    Login,
}

/// Tools whose short flags carry passwords. The last one seen counts: it may stand behind `sudo` or `env`.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Program {
    #[default]
    Other,
    Curl,
    /// `-pPASSWORD` in one word; `-p` alone asks.
    Mysql,
    /// Its `login` makes it [`Program::Login`]; elsewhere its `-p` is a port.
    Client,
    /// `-p PASSWORD`.
    Login,
    /// `-a PASSWORD`.
    Redis,
    /// `-w PASSWORD`.
    Ldap,
}

impl Program {
    fn of(word: &str) -> Option<Self> {
        match word.rsplit('/').next()? {
            "curl" | "wget" | "http" | "https" => Some(Self::Curl),
            name if name.starts_with("mysql") || name.starts_with("mariadb") => Some(Self::Mysql),
            "docker" | "podman" | "nerdctl" | "az" => Some(Self::Client),
            "sshpass" => Some(Self::Login),
            "redis-cli" => Some(Self::Redis),
            name if name.starts_with("ldap") => Some(Self::Ldap),
            _ => None,
        }
    }
}

impl Words {
    /// One argument, which may be a whole script.
    fn argument(&mut self, text: &str) -> String {
        let first = text.split_whitespace().next().unwrap_or_default();
        if self.next == Next::Secret && !is_flag(unquote(first).1) {
            self.next = Next::Anything;
            return MASK.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let (space, after) = rest.split_at(rest.len() - rest.trim_start().len());
            out.push_str(space);
            rest = after;
            if let Some((masked, after)) = mask_header(rest) {
                self.next = Next::Anything;
                out.push_str(&masked);
                rest = after;
                continue;
            }
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            if end > 0 {
                out.push_str(&self.word(&rest[..end]));
            }
            rest = &rest[end..];
        }
        if text.contains(char::is_whitespace) {
            // What the last word of a script announces does not come in the next argument.
            self.next = Next::Anything;
        }
        out
    }

    /// One word.
    fn word(&mut self, word: &str) -> String {
        let (open, inner, close) = unquote(word);
        let next = std::mem::take(&mut self.next);
        if !is_flag(inner) {
            match next {
                Next::Secret if !inner.is_empty() => return format!("{open}{MASK}{close}"),
                Next::Login => {
                    if let Some(masked) = mask_login(inner) {
                        return format!("{open}{masked}{close}");
                    }
                }
                _ => {}
            }
        }
        if self.program == Program::Client && inner == "login" {
            self.program = Program::Login;
        }
        if let Some(program) = Program::of(inner) {
            self.program = program;
            return word.to_owned();
        }
        if let Some(masked) = self.flag(inner) {
            return format!("{open}{masked}{close}");
        }
        format!("{open}{}{close}", mask_value(inner))
    }

    /// What a flag itself carries, and what it says about the next word.
    fn flag(&mut self, word: &str) -> Option<String> {
        if !is_flag(word) {
            // `TOKEN: x` and `Bearer x` inside sentences.
            if ["bearer", "basic"]
                .iter()
                .any(|scheme| word.eq_ignore_ascii_case(scheme))
            {
                self.next = Next::Secret;
            }
            return None;
        }
        let name = word.trim_start_matches('-');
        if !name.contains('=') && says_secret(name) {
            self.next = Next::Secret;
            return None;
        }
        match (word, self.program) {
            ("-u" | "-U" | "--user" | "--proxy-user", _) => self.next = Next::Login,
            ("-p", Program::Login) | ("-a", Program::Redis) | ("-w", Program::Ldap) => {
                self.next = Next::Secret
            }
            _ => {}
        }
        // One-letter flags that carry their value in the same word.
        let glued = |letter: &str| {
            word.strip_prefix(letter)
                .filter(|value| !value.is_empty() && !word.starts_with("--"))
        };
        match self.program {
            Program::Mysql => glued("-p").map(|_| format!("-p{MASK}")),
            Program::Curl => glued("-u")
                .and_then(mask_login)
                .map(|login| format!("-u{login}")),
            Program::Redis => glued("-a").map(|_| format!("-a{MASK}")),
            Program::Ldap => glued("-w").map(|_| format!("-w{MASK}")),
            Program::Client | Program::Login | Program::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> String {
        redact(&text.split('|').collect::<Vec<_>>()).join("|")
    }

    #[test]
    fn targets_of_notify_are_shown_by_their_host() {
        assert_eq!(
            line(
                "blackstart|run|--notify|slack:https://hooks.example/T0/x|--notify=webhook:http://u:p@a.example:8/x?y=z"
            ),
            "blackstart|run|--notify|slack:https://hooks.example/***|--notify=webhook:http://***@a.example:8/***"
        );
        assert_eq!(
            line(
                "run|--notify|owner=a slack:https://hooks.example/T0/x|--notify=owner=a slack:https://b.example/y"
            ),
            "run|--notify|owner=a slack:https://hooks.example/***|--notify=owner=a slack:https://b.example/***"
        );
        assert_eq!(
            line("--notify|webhook:@/etc/url"),
            "--notify|webhook:@/etc/url"
        );
    }

    #[test]
    fn patterns_of_ones_own_go_too() {
        let redaction = Redaction::new(&["corp-[0-9a-f]{8}", "(?i)ticket=\\w+", "x*"]).unwrap();
        let argv = [
            "deploy",
            "--id=corp-0123abcd",
            "a?Ticket=Q1&b",
            "--password",
            "p",
            "büro",
        ];
        assert_eq!(
            redaction.of(&argv),
            ["deploy", "--id=***", "a?***&b", "--password", "***", "büro"]
        );
        let all = Redaction::everything().of(&["./deploy", "--to", "höst\n1", ""]);
        assert_eq!(all, [MASK, MASK, MASK, ""]);
        let wrong = Redaction::new(&["a(b"]).unwrap_err().to_string();
        assert!(
            wrong.contains("\"a(b\" is not a regular expression: unclosed group"),
            "{wrong}"
        );
        assert!(Redaction::new(&["(a{1000}){1000}"]).is_err());
        let text = serde_json::to_string(&redaction).unwrap();
        assert_eq!(serde_json::from_str::<Redaction>(&text).unwrap(), redaction);
    }

    #[test]
    fn secrets_go() {
        for (before, after) in [
            ("deploy|--password|hunter2|x", "deploy|--password|***|x"),
            ("deploy|--password=hunter2", "deploy|--password=***"),
            ("deploy|--api-key=k", "deploy|--api-key=***"),
            ("deploy|--dbPassword|k", "deploy|--dbPassword|***"),
            (
                "env|DB_PASSWORD=x|AWS_SECRET_ACCESS_KEY=y|A=b",
                "env|DB_PASSWORD=***|AWS_SECRET_ACCESS_KEY=***|A=b",
            ),
            (
                "curl|-H|Authorization: Bearer abc|u",
                "curl|-H|Authorization: ***|u",
            ),
            ("curl|-HX-Api-Key: abc", "curl|-HX-Api-Key: ***"),
            ("curl|-u|me:pw|http://h", "curl|-u|me:***|http://h"),
            ("curl|-ume:pw", "curl|-ume:***"),
            (
                "curl|https://me:pw@h.example:8/p",
                "curl|https://***@h.example:8/p",
            ),
            (
                "curl|https://h/p?token=abc&x=1",
                "curl|https://h/p?token=***&x=1",
            ),
            (
                "sudo|mysql|-uroot|-psecret|db",
                "sudo|mysql|-uroot|-p***|db",
            ),
            ("docker|login|-p|pw|h", "docker|login|-p|***|h"),
            ("redis-cli|-a|pw", "redis-cli|-a|***"),
            ("sshpass|-p|pw|ssh|h", "sshpass|-p|***|ssh|h"),
            (
                "sh|-c|export TOKEN=abc; run --secret 'x' y",
                "sh|-c|export TOKEN=***; run --secret '***' y",
            ),
            (
                "sh|-c|curl -H 'Authorization: Bearer abc' http://h",
                "sh|-c|curl -H 'Authorization: ***' http://h",
            ),
            (
                "sh|-c|echo a ; curl -u me:pw http://h",
                "sh|-c|echo a ; curl -u me:*** http://h",
            ),
            ("x|AKIAIOSFODNN7EXAMPLE", "x|***"),
            (
                "git|clone|https://ghp_0123456789abcdefghij0123456789abcdef@github.com/a",
                "git|clone|https://***@github.com/a",
            ),
            ("x|a=ghp_0123456789abcdefghij0123456789abcdef", "x|a=***"),
            ("openssl|-passin|pass:abc", "openssl|-passin|pass:***"),
        ] {
            assert_eq!(line(before), after, "{before}");
        }
    }

    #[test]
    fn a_secret_that_is_cut_goes_too() {
        let redaction = Redaction::default();
        for (cut, shown) in [
            ("postgresql://app:Tr0ub4dor-and-3-secr", "postgresql://***"),
            ("--url=https://t0ken-of-git", "--url=https://***"),
            (
                "curl https://a.example/ https://u:pa",
                "curl https://a.example/ https://***",
            ),
            ("--config=x ghp_abc", "--config=x ***"),
            ("glpat-", "***"),
            // What stands in front of an @ or a path is whole.
            ("https://u:p@db.inter", "https://***@db.inter"),
            (
                "https://registry.example/v2/im",
                "https://registry.example/v2/im",
            ),
            ("/etc/deploy/conf", "/etc/deploy/conf"),
        ] {
            assert_eq!(redaction.of_cut(&["sh", cut]), ["sh", shown], "{cut}");
        }
        assert_eq!(redaction.of_cut::<&str>(&[]), [""; 0]);
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "git|clone|git@github.com:a/b",
            "git|clone|ssh://git@github.com/a/b",
            "docker|run|-p|80:80|x",
            "mysql|-p|db",
            "x|--token-file=/run/t|--password-stdin|y",
            "env|PWD=/root|PATH=/bin",
            "git|checkout|0123456789abcdef0123456789abcdef01234567",
            "curl|-H|Accept: text/html|https://h/p?q=1",
            "echo|time: 10:20",
            "x|--no-auth|y",
        ] {
            assert_eq!(line(text), text);
        }
    }

    /// A command line may be megabytes of anything.
    #[test]
    fn long_arguments_are_no_trouble() {
        for piece in [
            "a=",
            "'Authorization: x'",
            "Authorization: ",
            "x ",
            "'",
            "-H",
            "a:",
            "://",
            "=",
            "?a=b&",
            "ghp_",
            "-u ",
        ] {
            let long = piece.repeat(300_000 / piece.len());
            assert!(!redact(&[&long]).is_empty());
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(argv in prop::collection::vec(
            prop_oneof![
                ".*",
                "(-H|-p|-u|--token|--token=|PASSWORD=|curl|mysql|Bearer|Authorization:|https?://)?[ '\"a-z:@=/?&;*-]{0,12}",
                "[-]{0,2}[a-zA-Z_-]{0,8}(token|password|secret)?[=: '\"]{0,2}[a-z'\" ]{0,6}",
            ], 0..6))
        {
            let once = redact(&argv);
            prop_assert_eq!(redact(&once), once.clone());
            prop_assert_eq!(once.len(), argv.len());
        }
    }
}
