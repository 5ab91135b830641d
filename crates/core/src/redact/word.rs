//! What is secret in one word, whatever stands before it.

use super::MASK;

pub(super) fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && !word.starts_with("-----")
}

/// Quotes and shell punctuation around a word of a script.
pub(super) fn unquote(word: &str) -> (&str, &str, &str) {
    let start = word.len()
        - word
            .trim_start_matches(['"', '\'', '(', '`', '{', '$'])
            .len();
    let (open, rest) = word.split_at(start);
    let inner = rest.trim_end_matches(['"', '\'', ')', '`', '}', ';', ',', '&', '|']);
    (open, inner, &rest[inner.len()..])
}

/// `user:password` → `user:***`.
pub(super) fn mask_login(text: &str) -> Option<String> {
    let (user, password) = text.split_once(':')?;
    (!password.is_empty()).then(|| format!("{user}:{MASK}"))
}

/// Mask what a single word carries: `KEY=VALUE`, a URL, a token.
pub(super) fn mask_value(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((key, value)) = rest.split_once('=')
        && !value.is_empty()
        && !key.contains(['/', '?', ':'])
    {
        out.push_str(key);
        out.push('=');
        if says_secret(key.trim_start_matches('-')) {
            let (open, _, close) = unquote(value);
            return format!("{out}{open}{MASK}{close}");
        }
        rest = value;
    }
    if rest.contains("://") {
        out.push_str(&mask_url(rest));
    } else if rest
        .strip_prefix("pass:")
        .is_some_and(|password| !password.is_empty())
    {
        // openssl's way of passing a password.
        out.push_str("pass:");
        out.push_str(MASK);
    } else {
        out.push_str(&mask_tokens(rest));
    }
    out
}

/// Targets of `--notify`: whoever has such a URL can write there.
const TARGETS: &[&str] = &["webhook:", "slack:", "alertmanager:", "otlp:"];

/// `scheme://user:password@host/?token=x` → `scheme://***@host/?token=***`.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority);
    let authority = match authority.rsplit_once('@') {
        // `git@host` names an account; a token may stand there as well, and cannot be told from one.
        Some((user, host)) if user != "git" => format!("{MASK}@{host}"),
        _ => authority.to_owned(),
    };
    // Owners may stand before it.
    let target = scheme.rsplit(char::is_whitespace).next().unwrap_or(scheme);
    if TARGETS.iter().any(|kind| target.starts_with(kind)) && tail.len() > 1 {
        return format!("{scheme}://{authority}/{MASK}");
    }
    let (path, query) = match tail.find(['?', '#']) {
        Some(at) => tail.split_at(at),
        None => (tail, ""),
    };
    let mut out = format!("{scheme}://{authority}{}", mask_tokens(path));
    for part in query.split_inclusive(['?', '&', '#', ';']) {
        let (pair, end) = match part.strip_suffix(['?', '&', '#', ';']) {
            Some(pair) => (pair, &part[pair.len()..]),
            None => (part, ""),
        };
        match pair.split_once('=') {
            Some((key, value))
                if !value.is_empty() && (says_secret(key) || key.eq_ignore_ascii_case("sig")) =>
            {
                out.push_str(&format!("{key}={MASK}{end}"));
            }
            _ => out.push_str(&format!("{}{end}", mask_tokens(pair))),
        }
    }
    out
}

/// A header that carries credentials, at the start of `text`: masked to its closing quote or the end, and
/// what follows that.
pub(super) fn mask_header(text: &str) -> Option<(String, &str)> {
    const LONGEST_NAME: usize = 80;
    let colon = text.bytes().take(LONGEST_NAME).position(|b| b == b':')?;
    let name = &text[..colon];
    let quotes = |text: &str| text.len() - text.trim_start_matches(['"', '\'']).len();
    let outer = quotes(name);
    let flag = match &name[outer..] {
        rest if rest.starts_with("-H") => 2,
        rest if rest.starts_with("--header=") => 9,
        _ => 0,
    };
    let inner = quotes(&name[outer + flag..]);
    let quote = name[..outer + flag + inner]
        .chars()
        .rfind(|c| matches!(c, '"' | '\''));
    let bare = &name[outer + flag + inner..];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let carries = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
    ]
    .iter()
    .any(|known| bare.eq_ignore_ascii_case(known))
        || (bare.contains(['-', '_']) && says_secret(bare));
    if !carries || !bare.chars().all(plain) {
        return None;
    }
    let (head, value) = text.split_at(colon + 1);
    let space = value.len() - value.trim_start().len();
    let end = quote
        .and_then(|quote| value.find(quote))
        .unwrap_or(value.len());
    if end <= space || value.starts_with("//") {
        return None;
    }
    Some((format!("{head}{}{MASK}", &value[..space]), &value[end..]))
}

/// Does a flag's, variable's or header's name say that its value is secret?
pub(super) fn says_secret(name: &str) -> bool {
    const SECRET: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pass",
        "pwd",
        "secret",
        "secrets",
        "token",
        "tokens",
        "apikey",
        "credential",
        "credentials",
        "bearer",
        "auth",
        "authorization",
        "signature",
        "cookie",
        "accesskey",
        "privatekey",
        "secretkey",
        "dsn",
    ];
    const PAIRS: &[(&str, &str)] = &[
        ("api", "key"),
        ("access", "key"),
        ("private", "key"),
        ("secret", "key"),
        ("signing", "key"),
        ("account", "key"),
        ("shared", "key"),
        ("encryption", "key"),
        ("master", "key"),
        ("license", "key"),
    ];
    // A name that goes on with one of these speaks about the secret and does not hold it.
    const ABOUT: &[&str] = &[
        "file", "path", "dir", "name", "url", "uri", "store", "type", "ttl", "stdin", "fd",
        "policy", "length", "method", "mode", "prompt", "command", "sock", "expiry", "endpoint",
        "host", "port", "env",
    ];
    // The working directory, in every environment.
    if matches!(name, "PWD" | "OLDPWD") || name.len() > 128 {
        return false;
    }
    let words = words_of(name);
    if words.first().is_some_and(|w| w == "no")
        || words.last().is_some_and(|w| ABOUT.contains(&w.as_str()))
    {
        return false;
    }
    words.iter().any(|word| {
        SECRET.contains(&word.as_str()) || word.ends_with("password") || word.ends_with("token")
    }) || words
        .windows(2)
        .any(|pair| PAIRS.iter().any(|(a, b)| pair[0] == *a && pair[1] == *b))
}

/// `--dbPassword`, `DB_PASSWORD`, `db-password` → `db`, `password`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower_before = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            words.push(String::new());
            lower_before = false;
            continue;
        }
        if c.is_uppercase() && lower_before {
            words.push(String::new());
        }
        lower_before = c.is_lowercase() || c.is_numeric();
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// How tokens of well-known issuers begin, and how many characters follow at least.
const FORMS: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("npm_", 20),
    ("pypi-", 20),
    ("hvs.", 16),
    ("sk-", 20),
    ("sk_live_", 10),
    ("dop_v1_", 20),
    ("AIza", 30),
    ("eyJ", 30),
];

fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// A word whose end is cut off: who is named in front of a host may be all that is left of a URL, and a token be shorter than
/// it was.
pub(super) fn mask_cut(word: &mut String) {
    if let Some(at) = word.rfind("://") {
        let authority = at + "://".len();
        let is_whole =
            |c: char| matches!(c, '/' | '?' | '#' | '@' | '"' | '\'') || c.is_whitespace();
        if !word[authority..].contains(is_whole) {
            word.replace_range(authority.., MASK);
        }
    }
    let at = word.trim_end_matches(is_of_token).len();
    if FORMS
        .iter()
        .any(|(prefix, _)| word[at..].starts_with(prefix))
    {
        word.replace_range(at.., MASK);
    }
}

/// Tokens whose form is public, wherever they stand in a word.
fn mask_tokens(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_of_token(c)).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        let secret = FORMS.iter().any(|(prefix, least)| {
            run.strip_prefix(prefix)
                .is_some_and(|body| body.len() >= *least)
        });
        out.push_str(if secret { MASK } else { run });
        let next = tail.chars().next().map_or(0, char::len_utf8);
        out.push_str(&tail[..next]);
        rest = &tail[next..];
    }
    out
}
