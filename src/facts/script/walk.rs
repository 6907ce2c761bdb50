//! A script, part by part: every command that any branch could run.

use brush_parser::ast::{
    AndOr, Assignment, AssignmentName, AssignmentValue, BinaryPredicate, Command,
    CommandPrefixOrSuffixItem as Item, CompoundCommand, CompoundList, ExtendedTestExpr, IoFileRedirectKind,
    IoFileRedirectTarget, IoRedirect, Pipeline, Program, SimpleCommand, UnaryPredicate, Word,
};

use super::Examiner;
use super::findings::Reason;

/// Files that may be written by redirection: nothing is kept there.
const NOWHERE: [&str; 3] = ["/dev/null", "/dev/stdout", "/dev/stderr"];

/// Variables that change how programs speak, not what they do.
const HARMLESS: [&str; 7] = ["LANG", "LANGUAGE", "COLUMNS", "LINES", "NO_COLOR", "CLICOLOR", "FORCE_COLOR"];

/// Variables that a shell itself looks at, beside those whose names begin with BASH.
const SHELLS_OWN: [&str; 21] = [
    "PATH",
    "IFS",
    "ENV",
    "PS4",
    "PROMPT_COMMAND",
    "SHELLOPTS",
    "CDPATH",
    "GLOBIGNORE",
    "EXECIGNORE",
    "FUNCNEST",
    "HISTFILE",
    "HOME",
    "TMPDIR",
    "POSIXLY_CORRECT",
    "OPTIND",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "LINENO",
    "HISTCMD",
    "DIRSTACK",
];

impl Examiner<'_> {
    pub(super) fn whole(&mut self, program: &Program) {
        program.complete_commands.iter().for_each(|list| self.list(list));
    }

    fn list(&mut self, list: &CompoundList) {
        for item in &list.0 {
            self.pipeline(&item.0.first);
            for next in &item.0.additional {
                match next {
                    AndOr::And(pipeline) | AndOr::Or(pipeline) => self.pipeline(pipeline),
                }
            }
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline) {
        if pipeline.timed.is_some() {
            // Elsewhere `time` is a program.
            self.only_bash();
        }
        pipeline.seq.iter().for_each(|command| self.command(command));
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Simple(simple) => self.simple(simple),
            Command::Compound(compound, redirects) => {
                self.compound(compound);
                redirects.iter().flat_map(|r| &r.0).for_each(|r| self.redirect(r));
            }
            Command::Function(function) => {
                self.compound(&function.body.0);
                function.body.1.iter().flat_map(|r| &r.0).for_each(|r| self.redirect(r));
            }
            Command::ExtendedTest(test, redirects) => {
                self.only_bash();
                self.test(&test.expr);
                redirects.iter().flat_map(|r| &r.0).for_each(|r| self.redirect(r));
            }
        }
    }

    fn compound(&mut self, compound: &CompoundCommand) {
        match compound {
            CompoundCommand::Arithmetic(command) => {
                self.findings.doubt(Reason::Dynamic);
                self.arithmetic(&command.expr);
            }
            CompoundCommand::ArithmeticForClause(clause) => {
                self.only_bash();
                let parts = [&clause.initializer, &clause.condition, &clause.updater];
                parts.into_iter().flatten().for_each(|part| self.arithmetic(part));
                self.list(&clause.body.list);
            }
            CompoundCommand::BraceGroup(group) => self.list(&group.list),
            CompoundCommand::Subshell(subshell) => self.list(&subshell.list),
            CompoundCommand::ForClause(clause) => {
                self.assigned(&clause.variable_name);
                clause.values.iter().flatten().for_each(|value| self.scan(&value.value));
                self.list(&clause.body.list);
            }
            CompoundCommand::CaseClause(clause) => {
                self.scan(&clause.value.value);
                for case in &clause.cases {
                    case.patterns.iter().for_each(|pattern| self.scan(&pattern.value));
                    case.cmd.iter().for_each(|list| self.list(list));
                }
            }
            CompoundCommand::IfClause(clause) => {
                self.list(&clause.condition);
                self.list(&clause.then);
                for branch in clause.elses.iter().flatten() {
                    branch.condition.iter().for_each(|list| self.list(list));
                    self.list(&branch.body);
                }
            }
            CompoundCommand::WhileClause(clause) | CompoundCommand::UntilClause(clause) => {
                self.list(&clause.0);
                self.list(&clause.1.list);
            }
            CompoundCommand::Coprocess(coprocess) => {
                self.only_bash();
                coprocess.name.iter().for_each(|name| self.assigned(&name.value));
                self.command(&coprocess.body);
            }
        }
    }

    fn simple(&mut self, command: &SimpleCommand) {
        let before = command.prefix.iter().flat_map(|prefix| &prefix.0);
        let after = command.suffix.iter().flat_map(|suffix| &suffix.0);
        let has_program = command.word_or_name.is_some();
        let mut words: Vec<&Word> = command.word_or_name.iter().collect();
        let mut known = true;
        for (item, is_before) in before.map(|i| (i, true)).chain(after.map(|i| (i, false))) {
            match item {
                Item::IoRedirect(redirect) => self.redirect(redirect),
                Item::Word(word) => words.push(word),
                Item::AssignmentWord(assignment, word) => {
                    if is_before {
                        self.assignment(assignment, has_program);
                    } else {
                        if let AssignmentValue::Array(_) = assignment.value {
                            self.assignment(assignment, true);
                            known = false;
                        }
                        words.push(word);
                    }
                }
                Item::ProcessSubstitution(_, subshell) => {
                    self.only_bash();
                    self.list(&subshell.list);
                    known = false;
                }
            }
        }
        self.words(&words, known);
    }

    /// The words of a simple command. One that is not known makes the command opaque; it stands as it is written.
    fn words(&mut self, words: &[&Word], mut known: bool) {
        let mut argv = Vec::with_capacity(words.len());
        for word in words {
            // Before a redirection this names a variable.
            if word.value.len() > 2 && word.value.starts_with('{') && word.value.ends_with('}') {
                self.findings.doubt(Reason::Dynamic);
            }
            let literal = self.literal(&word.value);
            known &= literal.is_some();
            argv.push(literal.unwrap_or_else(|| word.value.clone()));
        }
        let Some(program) = argv.first() else { return };
        // What stands before it may end its options so (`time -- ls`).
        if program.starts_with('-') {
            self.findings.doubt(Reason::Syntax);
        }
        if !known {
            self.findings.doubt(Reason::Dynamic);
            return self.findings.command(argv);
        }
        self.builtin(&argv);
        self.noted(argv);
    }

    fn assignment(&mut self, assignment: &Assignment, exported: bool) {
        if assignment.append {
            self.only_bash();
        }
        match &assignment.name {
            AssignmentName::VariableName(name) if exported => self.exported(name),
            AssignmentName::VariableName(name) => self.assigned(name),
            // An index is arithmetic.
            AssignmentName::ArrayElementName(..) => self.findings.doubt(Reason::Dynamic),
        }
        match &assignment.value {
            AssignmentValue::Scalar(word) => self.scan(&word.value),
            AssignmentValue::Array(elements) => {
                self.only_bash();
                for (index, value) in elements {
                    if index.is_some() {
                        self.findings.doubt(Reason::Dynamic);
                    }
                    self.scan(&value.value);
                }
            }
        }
    }

    /// A variable that programs will see.
    pub(super) fn exported(&mut self, name: &str) {
        if !HARMLESS.contains(&name) && !name.starts_with("LC_") {
            self.findings.doubt(Reason::Variable);
        }
    }

    /// A variable of the shell; programs see it when it was in the environment before.
    pub(super) fn assigned(&mut self, name: &str) {
        let own = SHELLS_OWN.contains(&name) || name.starts_with("BASH") || name.starts_with("LD_");
        if own || self.env.contains_key(name) {
            self.exported(name);
        }
        if name.contains('[') {
            self.findings.doubt(Reason::Dynamic);
        }
    }

    fn redirect(&mut self, redirect: &IoRedirect) {
        match redirect {
            IoRedirect::File(_, kind, target) => match target {
                IoFileRedirectTarget::Filename(word) => self.file(word, kind),
                IoFileRedirectTarget::Fd(_) => {}
                IoFileRedirectTarget::ProcessSubstitution(_, subshell) => {
                    self.only_bash();
                    self.list(&subshell.list);
                }
                IoFileRedirectTarget::Duplicate(word) => {
                    let literal = self.literal(&word.value).unwrap_or_default();
                    if !is_descriptor(&literal) {
                        self.findings.doubt(Reason::Redirect);
                    }
                }
            },
            IoRedirect::HereDocument(_, document) => {
                if document.requires_expansion {
                    self.here_document(&document.doc.value);
                }
            }
            IoRedirect::HereString(_, word) => {
                self.only_bash();
                self.scan(&word.value);
            }
            IoRedirect::OutputAndError(word, _) => {
                // Elsewhere this is a command in the background.
                self.only_bash();
                self.file(word, &IoFileRedirectKind::Write);
            }
        }
    }

    fn file(&mut self, word: &Word, kind: &IoFileRedirectKind) {
        let literal = self.literal(&word.value);
        let is_network = |path: &str| path.starts_with("/dev/tcp") || path.starts_with("/dev/udp");
        let fine = match kind {
            IoFileRedirectKind::Read => literal.is_some_and(|path| !is_network(&path)),
            IoFileRedirectKind::Write
            | IoFileRedirectKind::Append
            | IoFileRedirectKind::ReadAndWrite
            | IoFileRedirectKind::Clobber => literal.is_some_and(|path| NOWHERE.contains(&path.as_str())),
            IoFileRedirectKind::DuplicateInput | IoFileRedirectKind::DuplicateOutput => {
                literal.is_some_and(|word| is_descriptor(&word))
            }
        };
        if !fine {
            self.findings.doubt(Reason::Redirect);
        }
    }

    fn test(&mut self, expression: &ExtendedTestExpr) {
        match expression {
            ExtendedTestExpr::And(a, b) | ExtendedTestExpr::Or(a, b) => {
                self.test(a);
                self.test(b);
            }
            ExtendedTestExpr::Not(inner) | ExtendedTestExpr::Parenthesized(inner) => self.test(inner),
            ExtendedTestExpr::UnaryTest(predicate, word) => {
                self.scan(&word.value);
                if matches!(
                    predicate,
                    UnaryPredicate::ShellVariableIsSetAndAssigned
                        | UnaryPredicate::ShellVariableIsSetAndNameRef
                ) {
                    self.only_numbers(&word.value);
                }
            }
            ExtendedTestExpr::BinaryTest(predicate, a, b) => {
                self.scan(&a.value);
                self.scan(&b.value);
                if matches!(
                    predicate,
                    BinaryPredicate::ArithmeticEqualTo
                        | BinaryPredicate::ArithmeticNotEqualTo
                        | BinaryPredicate::ArithmeticLessThan
                        | BinaryPredicate::ArithmeticLessThanOrEqualTo
                        | BinaryPredicate::ArithmeticGreaterThan
                        | BinaryPredicate::ArithmeticGreaterThanOrEqualTo
                ) {
                    self.only_numbers(&a.value);
                    self.only_numbers(&b.value);
                }
            }
        }
    }

    /// Operands that bash evaluates as arithmetic, or looks up by index.
    fn only_numbers(&mut self, text: &str) {
        if !text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            self.findings.doubt(Reason::Dynamic);
        }
    }
}

fn is_descriptor(word: &str) -> bool {
    let digits = word.strip_suffix('-').unwrap_or(word);
    !word.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}
