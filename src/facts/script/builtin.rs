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
            "eval" => {
                if let Some(words) = self.plain(arguments) {
                    self.text(self.dialect, &words.join(" "));
                }
            }
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
            "jobs" if arguments.iter().any(|a| a.starts_with('-') && a.contains('x')) => {
                self.findings.doubt(Reason::Eval);
            }
            "test" | "["
                if arguments.iter().any(|a| a == "-v" || a == "-R")
                    && arguments.iter().any(|a| a.contains('[')) =>
            {
                self.findings.doubt(Reason::Dynamic);
            }
            "let" => self.findings.doubt(Reason::Dynamic),
            "export" => self.declare(arguments, true),
            "declare" | "typeset" | "local" | "readonly" => self.declare(arguments, false),
            "unset" | "read" | "getopts" | "mapfile" | "readarray" | "wait" => self.names(arguments),
            "printf" if arguments.first().is_some_and(|a| a.starts_with("-v")) => {
                self.names(arguments.get(..2).unwrap_or(arguments));
            }
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

    /// The arguments of what takes no options; any option is in doubt, for to some shells it is none.
    fn plain<'a>(&mut self, arguments: &'a [String]) -> Option<&'a [String]> {
        match arguments.split_first() {
            Some((first, rest)) if first == "--" => Some(rest),
            Some((first, _)) if first.starts_with('-') && first != "-" => {
                self.findings.doubt(Reason::Options);
                None
            }
            _ => Some(arguments),
        }
    }

    fn trap(&mut self, arguments: &[String]) {
        if let Some((action, signals)) = self.plain(arguments).and_then(<[String]>::split_first)
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

    /// Arguments that name variables. An option may have the name behind it, in one word with others.
    fn names(&mut self, arguments: &[String]) {
        for argument in arguments {
            self.assigned(argument);
            if argument.starts_with('-') {
                argument
                    .char_indices()
                    .skip(2)
                    .filter_map(|(at, _)| argument.get(at..))
                    .for_each(|name| self.assigned(name));
            }
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
            for _ in group.matches('o') {
                if rest.next().is_some_and(|name| !PLAIN.contains(&name.as_str())) {
                    self.findings.doubt(Reason::Options);
                }
            }
        }
    }
}
