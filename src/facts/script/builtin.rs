//! Commands of the shell itself that run, read or steer more than they say.

use super::Examiner;
use super::findings::Reason;

/// Commands that take names of variables, whose indices bash would evaluate.
const TAKE_NAMES: [&str; 14] = [
    "test",
    "[",
    "printf",
    "read",
    "unset",
    "declare",
    "typeset",
    "local",
    "export",
    "readonly",
    "wait",
    "mapfile",
    "readarray",
    "getopts",
];

impl Examiner<'_> {
    /// What a command of the shell does beyond being a command; all its words are known.
    pub(super) fn builtin(&mut self, argv: &[String]) {
        let Some((name, arguments)) = argv.split_first() else { return };
        if TAKE_NAMES.contains(&name.as_str())
            && arguments.iter().any(|a| a.contains('[') && (a.contains("$(") || a.contains('`')))
        {
            self.findings.doubt(Reason::Dynamic);
        }
        match name.as_str() {
            "eval" => self.text(self.dialect, &operands(arguments).join(" ")),
            "." | "source" => self.findings.doubt(Reason::Source),
            "exec" => self.exec(arguments),
            "command" | "builtin" => self.plainly(arguments),
            "trap" => self.trap(arguments),
            "alias" if !arguments.is_empty() => self.findings.doubt(Reason::Eval),
            "enable" | "fc" | "bind" | "complete" | "compgen" | "compopt" => {
                self.findings.doubt(Reason::Eval)
            }
            "mapfile" | "readarray" | "hash"
                if arguments.iter().any(|a| a.starts_with('-') && a.contains(['C', 'p'])) =>
            {
                self.findings.doubt(Reason::Eval);
            }
            "let" => self.findings.doubt(Reason::Dynamic),
            "export" => self.declare(arguments, true),
            "declare" | "typeset" | "local" | "readonly" => self.declare(arguments, false),
            "unset" | "read" | "getopts" | "mapfile" | "readarray" => {
                operands(arguments).iter().for_each(|name| self.assigned(name))
            }
            "printf" => self.named_by("-v", arguments),
            "wait" => self.named_by("-p", arguments),
            "set" => self.set(arguments),
            "shopt" => self.findings.doubt(Reason::Options),
            _ => {}
        }
    }

    fn exec(&mut self, arguments: &[String]) {
        let mut rest = arguments;
        while let Some((option, after)) = rest.split_first().filter(|(first, _)| first.starts_with('-')) {
            rest = match option.as_str() {
                "--" => after,
                "-a" => after.get(1..).unwrap_or_default(),
                "-c" | "-l" | "-cl" | "-lc" => after,
                _ => return self.findings.doubt(Reason::Options),
            };
            if option == "--" {
                break;
            }
        }
        if !rest.is_empty() {
            self.inner(rest);
        }
    }

    /// `command` and `builtin`: what follows, without functions.
    fn plainly(&mut self, arguments: &[String]) {
        let mut rest = arguments;
        while let Some((option, after)) = rest.split_first().filter(|(first, _)| first.starts_with('-')) {
            match option.as_str() {
                "-v" | "-V" | "-pv" | "-pV" => return,
                "-p" | "--" => rest = after,
                _ => return self.findings.doubt(Reason::Options),
            }
        }
        if !rest.is_empty() {
            self.inner(rest);
        }
    }

    fn inner(&mut self, argv: &[String]) {
        self.builtin(argv);
        self.noted(argv.to_vec());
    }

    fn trap(&mut self, arguments: &[String]) {
        let operands = operands(arguments);
        if let Some((action, signals)) = operands.split_first()
            && !signals.is_empty()
            && action != "-"
        {
            self.text(self.dialect, action);
        }
    }

    fn declare(&mut self, arguments: &[String], mut exported: bool) {
        for argument in arguments {
            if argument.starts_with(['-', '+']) {
                exported |= argument.starts_with('-') && argument.contains('x');
                if argument.contains(['n', 'i', 'a', 'A']) && !argument.starts_with("--") {
                    self.findings.doubt(Reason::Dynamic);
                }
                continue;
            }
            let name = argument.split('=').next().unwrap_or_default().trim_end_matches('+');
            if exported {
                self.exported(name);
            }
            self.assigned(name);
        }
    }

    fn named_by(&mut self, option: &str, arguments: &[String]) {
        let group =
            |a: &String| a.starts_with('-') && a.contains(option.trim_start_matches('-')) && a.len() <= 3;
        if let Some(at) = arguments.iter().position(|a| a.starts_with(option) || group(a)) {
            let attached =
                arguments.get(at).and_then(|a| a.strip_prefix(option)).filter(|name| !name.is_empty());
            let name = attached.or_else(|| arguments.get(at + 1).map(String::as_str)).unwrap_or_default();
            self.assigned(name);
        }
    }

    fn set(&mut self, arguments: &[String]) {
        const PLAIN: [&str; 9] =
            ["errexit", "nounset", "pipefail", "noglob", "xtrace", "verbose", "noclobber", "noexec", "posix"];
        let mut rest = arguments.iter();
        while let Some(group) = rest.next().filter(|a| a.starts_with(['-', '+']) && *a != "--" && *a != "-") {
            if group.contains(['a', 'k']) {
                self.findings.doubt(Reason::Variable);
            }
            if group.contains('o') && rest.next().is_some_and(|name| !PLAIN.contains(&name.as_str())) {
                self.findings.doubt(Reason::Options);
            }
        }
    }
}

/// The arguments without options.
fn operands(arguments: &[String]) -> Vec<String> {
    let options = arguments.iter().take_while(|a| a.starts_with('-') && a.len() > 1).count();
    arguments.get(options..).unwrap_or_default().to_vec()
}
