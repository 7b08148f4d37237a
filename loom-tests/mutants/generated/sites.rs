//! The sites of the core at which a mutant is made, taken from its source. Nothing is listed by
//! hand.

use proc_macro2::{Span, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Where an ordering, a fence or a wake-up is a site: everything but pages, platforms and examples.
const NOT_CORE: [&str; 3] = ["src/docs", "src/platforms", "src/promises.rs"];

/// Where a count, a wait or a check is a site: what keeps the protocol. (The index is compared with
/// an oracle, by `tests/interval`; ranges and tables have tests of their own.)
const PROTOCOL: [&str; 6] =
    ["src/refcount", "src/work", "src/notifier", "src/mm", "src/userptr", "src/context"];

/// The methods whose closures run under a spinlock, or are the condition of a wait.
const SECTIONS: [&str; 6] = ["with", "with_notifier", "wait_for", "wait_until", "slot", "read"];

/// The types whose methods run under a spinlock.
const UNDER_LOCK: [&str; 5] = ["Core", "Slot", "Overflow", "State", "Buckets"];

/// The methods that count, with the number in a literal.
const ARITHMETIC: [&str; 8] = [
    "fetch_add",
    "fetch_sub",
    "wrapping_add",
    "wrapping_sub",
    "saturating_add",
    "saturating_sub",
    "checked_add",
    "checked_sub",
];

/// What one mutant is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub file: String,
    /// The function around it, with its type.
    pub function: String,
    /// What is done to it.
    pub change: String,
    /// The source text of it, on one line.
    pub text: String,
    /// The how-manieth of those that are equal otherwise.
    pub nth: usize,
}

impl Site {
    /// Names it, independent of its line.
    pub fn key(&self) -> String {
        let nth = if self.nth == 0 { String::new() } else { format!(" #{}", self.nth + 1) };
        format!("{}\t{}\t{}{nth}\t{}", self.file, self.function, self.change, self.text)
    }

    /// An ordering, a fence: only a memory model sees it.
    pub fn is_ordering(&self) -> bool {
        self.change.starts_with("order") || self.change.starts_with("fence")
    }

    /// Whether the result may not be missing: orderings, fences, wake-ups and waits.
    pub fn must_be_tried(&self) -> bool {
        self.is_ordering() || self.change.starts_with("wake ") || self.change.starts_with("wait ")
    }
}

/// Text around a piece of source. `{1}`, `{2}` in it stand for the mutant's number.
struct Wrap {
    from: usize,
    to: usize,
    before: String,
    after: String,
}

/// What the core's source holds.
pub struct Found {
    pub sites: Vec<Site>,
    /// Each file with every mutant in it, chosen at run time.
    pub files: BTreeMap<String, String>,
    /// FNV-1a of the tokens, comments left out.
    pub hash: u64,
}

/// Reads the core below `home`. The number of a mutant is its place in `sites`, plus one.
pub fn find(home: &Path) -> Result<Found, String> {
    let mut paths = Vec::new();
    list(&home.join("src"), &mut paths);
    paths.sort();
    let mut found = Found { sites: Vec::new(), files: BTreeMap::new(), hash: 0xcbf2_9ce4_8422_2325 };
    for path in paths {
        let name = path.strip_prefix(home).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        if NOT_CORE.iter().any(|not| name.starts_with(not)) {
            found.files.insert(name, text);
            continue;
        }
        let tree = syn::parse_file(&text).map_err(|why| format!("{name}: {why}"))?;
        let tokens: TokenStream = text.parse().map_err(|why| format!("{name}: {why}"))?;
        for byte in name.bytes().chain(tokens.to_string().bytes()) {
            found.hash = (found.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut finder = Finder {
            protocol: PROTOCOL.iter().any(|p| name.starts_with(p)),
            file: &name,
            text: &text,
            sites: &mut found.sites,
            wraps: Vec::new(),
            scope: Vec::new(),
            locked: 0,
            orderings: 0,
            wrong: Vec::new(),
        };
        finder.visit_file(&tree);
        let (wraps, orderings, wrong) = (finder.wraps, finder.orderings, finder.wrong);
        if let Some(wrong) = wrong.first() {
            return Err(format!("{name}: {wrong}"));
        }
        // Nothing is passed over: what the tokens name, the tree has.
        let named = named_orderings(tokens);
        if named != orderings {
            return Err(format!("{name} names {named} orderings, and {orderings} of them were understood"));
        }
        found.files.insert(name, apply(&text, wraps));
    }
    number(&mut found.sites);
    Ok(found)
}

fn list(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn number(sites: &mut [Site]) {
    let mut seen: BTreeMap<Site, usize> = BTreeMap::new();
    for site in sites {
        let nth = seen.entry(site.clone()).or_default();
        site.nth = *nth;
        *nth += 1;
    }
}

/// How often `Load::Acquire`, `Store::Release`, `Rmw::` anything but relaxed stand in the tokens.
fn named_orderings(tokens: TokenStream) -> usize {
    let mut count = 0;
    let mut last = [String::new(), String::new(), String::new()];
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            count += named_orderings(group.stream());
        }
        let token = token.to_string();
        let typed = matches!(last[0].as_str(), "Load" | "Store" | "Rmw") && last[1] == ":" && last[2] == ":";
        count += usize::from(typed && matches!(token.as_str(), "Acquire" | "Release" | "AcqRel"));
        last.rotate_left(1);
        last[2] = token;
    }
    count
}

/// Puts the text of each wrap around its piece; outer ones outside.
fn apply(text: &str, wraps: Vec<Wrap>) -> String {
    // Place, then: what ends here before what begins here; inner ends first, outer beginnings
    // first; of equal pieces the first found is the outer one.
    let mut edits = Vec::new();
    for (i, wrap) in wraps.into_iter().enumerate() {
        let (length, i) = ((wrap.to - wrap.from) as isize, i as isize);
        edits.push(((wrap.to, 0, length, -i), wrap.after));
        edits.push(((wrap.from, 1, -length, i), wrap.before));
    }
    edits.sort();
    let (mut out, mut at) = (String::new(), 0);
    for ((place, ..), insert) in edits {
        out.push_str(&text[at..place]);
        out.push_str(&insert);
        at = place;
    }
    out.push_str(&text[at..]);
    out
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    protocol: bool,
    sites: &'a mut Vec<Site>,
    wraps: Vec<Wrap>,
    scope: Vec<String>,
    /// How many sections of a lock are around.
    locked: usize,
    orderings: usize,
    wrong: Vec<String>,
}

impl Finder<'_> {
    /// Records a mutant, and returns its number.
    fn site(&mut self, change: &str, span: Span) -> usize {
        let text = &self.text[span.byte_range()];
        let text = text.lines().map(|l| l.split(" // ").next().unwrap_or_default().trim());
        let text = text.filter(|line| !line.starts_with("//")).collect::<Vec<_>>().join(" ");
        self.sites.push(Site {
            file: self.file.to_owned(),
            function: self.scope.join("::"),
            change: change.to_owned(),
            text: text.chars().take(100).collect(),
            nth: 0,
        });
        self.sites.len()
    }

    fn wrap(&mut self, span: Span, before: String, after: &str) {
        let range = span.byte_range();
        self.wraps.push(Wrap { from: range.start, to: range.end, before, after: after.to_owned() });
    }

    fn source(&self, span: Span) -> &str {
        &self.text[span.byte_range()]
    }

    /// The condition of an `if`, a `while` or an arm, in a section of a lock: taken for true, for
    /// false.
    fn condition(&mut self, condition: &syn::Expr) {
        if self.locked == 0 || !self.protocol {
            return;
        }
        let span = condition.span();
        if has_let(condition) {
            let n = self.site("check false", span);
            self.wrap(span, format!("!crate::mutants::on({n}) && "), "");
        } else {
            let (yes, no) = (self.site("check true", span), self.site("check false", span));
            let before = format!(
                "(if crate::mutants::on({yes}) {{ true }} else if crate::mutants::on({no}) {{ false }} else {{ ("
            );
            self.wrap(span, before, ") })");
        }
    }

    /// A value that owns a count: one more is taken, one is put.
    fn counted(&mut self, span: Span) {
        let (more, less) = (self.site("count one more", span), self.site("count one less", span));
        let after = format!(
            "; if crate::mutants::on({more}) {{ core::mem::forget(Clone::clone(&owned)); }} \
             if crate::mutants::on({less}) {{ use crate::mutants::{{PutInner as _, PutPlain as _}}; \
             (&crate::mutants::Owned(&owned)).put(); }} owned }})"
        );
        self.wrap(span, "({ let owned = ".to_owned(), &after);
    }

    fn within(&mut self, name: String, locked: bool, f: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.locked, usize::from(locked));
        self.scope.push(name);
        f(self);
        self.scope.pop();
        self.locked = outer;
    }

    /// Whether a function runs under a lock: its type's methods do, or what the lock guards is an
    /// argument.
    fn is_locked(&self, sig: &syn::Signature) -> bool {
        let guarded = |arg: &syn::FnArg| {
            UNDER_LOCK.iter().any(|of| self.source(arg.span()).contains(&format!("{of}<P>")))
        };
        self.scope.last().is_some_and(|of| UNDER_LOCK.contains(&of.as_str()))
            || sig.inputs.iter().any(guarded)
    }
}

fn has_let(condition: &syn::Expr) -> bool {
    match condition {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(both) => has_let(&both.left) || has_let(&both.right),
        _ => false,
    }
}

/// The names of a path: `core::mem::forget`.
fn path(expr: &syn::Expr) -> Vec<String> {
    match expr {
        syn::Expr::Path(path) => path.path.segments.iter().map(|s| s.ident.to_string()).collect(),
        _ => Vec::new(),
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.trait_.as_ref().is_some_and(|(_, of, _)| of.segments.iter().any(|s| s.ident == "Debug")) {
            return;
        }
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
            _ => None,
        };
        self.within(name.unwrap_or_default(), false, |this| visit::visit_item_impl(this, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.within(item.ident.to_string(), false, |this| visit::visit_item_trait(this, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Unit tests are no core.
        if item.attrs.iter().all(|a| !self.source(a.span()).contains("test")) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if item.sig.constness.is_none() {
            let locked = self.is_locked(&item.sig);
            self.within(item.sig.ident.to_string(), locked, |this| visit::visit_impl_item_fn(this, item));
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.within(item.sig.ident.to_string(), false, |this| visit::visit_trait_item_fn(this, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item.sig.constness.is_none() {
            let locked = self.is_locked(&item.sig);
            self.within(item.sig.ident.to_string(), locked, |this| visit::visit_item_fn(this, item));
        }
    }

    fn visit_expr_path(&mut self, expr: &'ast syn::ExprPath) {
        let names: Vec<String> = expr.path.segments.iter().map(|s| s.ident.to_string()).collect();
        let names: Vec<&str> = names.iter().rev().take(2).rev().map(String::as_str).collect();
        let weaker: &[&str] = match names[..] {
            ["Load", "Acquire"] | ["Store", "Release"] | ["Rmw", "Acquire" | "Release"] => &["Relaxed"],
            ["Rmw", "AcqRel"] => &["Acquire", "Release"],
            _ => return,
        };
        self.orderings += 1;
        let mut before = String::from("(");
        for to in weaker {
            let statement =
                self.text[..expr.span().byte_range().start].rfind(['\n', ';']).unwrap_or_default();
            let end = expr.span().byte_range().end;
            let line = self.text[statement + 1..].find('\n').map_or(end, |n| statement + 1 + n).max(end);
            // The whole line says which access it is.
            let n = self.site(&format!("order {} to {to}", names[1]), expr.span());
            let line = self.text[statement + 1..line].split("//").next().unwrap_or_default();
            self.sites[n - 1].text = line.split_whitespace().collect::<Vec<_>>().join(" ");
            before += &format!("if crate::mutants::on({n}) {{ {}::{to} }} else ", names[0]);
        }
        self.wrap(expr.span(), before + "{ ", " })");
    }

    fn visit_pat(&mut self, _: &'ast syn::Pat) {
        // No expression is a site in a pattern.
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let names = path(&call.func);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let span = call.span();
        match names[..] {
            [.., "fence"] => {
                let (gone, weak) = (self.site("fence removed", span), self.site("fence to AcqRel", span));
                let before = format!(
                    "(if crate::mutants::on({gone}) {{}} else if crate::mutants::on({weak}) {{ crate::mutants::weak_fence() }} else {{ "
                );
                self.wrap(span, before, " })");
            }
            ["drop"] if self.protocol => {
                let n = self.site("count not put", span);
                let of = call.args.first().map(|a| self.source(a.span()).to_owned()).unwrap_or_default();
                self.wrap(
                    span,
                    format!("(if crate::mutants::on({n}) {{ core::mem::forget({of}) }} else {{ "),
                    " })",
                );
                // Its operand stands twice: no site inside.
                return;
            }
            [.., "mem", "forget"] if self.protocol => {
                let n = self.site("count put", span);
                let of = call.args.first().map(|a| self.source(a.span()).to_owned()).unwrap_or_default();
                self.wrap(span, format!("(if crate::mutants::on({n}) {{ drop({of}) }} else {{ "), " })");
                return;
            }
            ["Ref", "adopt"] if self.protocol => self.counted(span),
            ["Ref", "leak"] if self.protocol => {
                if let Some(of) = call.args.first() {
                    self.counted(of.span());
                }
            }
            _ => {}
        }
        let section = usize::from(names.last().is_some_and(|name| SECTIONS.contains(name)));
        self.locked += section;
        visit::visit_expr_call(self, call);
        self.locked -= section;
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let disarmed = match (&local.pat, &local.init) {
            (syn::Pat::Wild(_), Some(init)) => match &*init.expr {
                syn::Expr::Call(call) if path(&call.func).first().is_some_and(|n| n == "ManuallyDrop") => {
                    call.args.first()
                }
                _ => None,
            },
            _ => None,
        };
        if let (Some(of), true) = (disarmed, self.protocol) {
            let (span, of) = (local.span(), self.source(of.span()).to_owned());
            let n = self.site("guard not disarmed", span);
            self.wrap(span, format!("if crate::mutants::on({n}) {{ drop({of}) }} else {{ "), " }");
            return;
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let (method, span) = (call.method.to_string(), call.span());
        let receiver = self.source(call.receiver.span()).to_owned();
        let of_count = receiver.ends_with("count") || receiver.ends_with("count()");
        match method.as_str() {
            "wake" | "wake_all" => {
                let n = self.site("wake removed", span);
                self.wrap(span, format!("(if !crate::mutants::on({n}) {{ "), " })");
            }
            "wait_until" | "wait_for" if self.protocol => {
                let n = self.site("wait removed", span);
                self.wrap(span, format!("(crate::mutants::on({n}) || {{ "), " })");
            }
            "get" | "revive" if self.protocol && of_count && call.args.is_empty() => {
                let (less, more) = (self.site("count one less", span), self.site("count one more", span));
                let after = format!("; if crate::mutants::on({more}) {{ {receiver}.get(); }} }})");
                self.wrap(span, format!("(if !crate::mutants::on({less}) {{ "), &after);
            }
            "put" if self.protocol && of_count && call.args.is_empty() => {
                let (more, less) = (self.site("count one more", span), self.site("count one less", span));
                let before = format!(
                    "(!crate::mutants::on({more}) && {{ if crate::mutants::on({less}) {{ let _ = {receiver}.put(); }} "
                );
                self.wrap(span, before, " })");
            }
            "clone" if self.protocol && call.args.is_empty() => self.counted(span),
            name if self.protocol && ARITHMETIC.contains(&name) => {
                if let Some(syn::Expr::Lit(one)) = call.args.first()
                    && self.source(one.span()) == "1"
                {
                    let (zero, two) = (self.site("1 to 0", span), self.site("1 to 2", span));
                    let before = format!(
                        "(if crate::mutants::on({zero}) {{ 0 }} else if crate::mutants::on({two}) {{ 2 }} else {{ "
                    );
                    self.wrap(one.span(), before, " })");
                }
            }
            _ => {}
        }
        self.visit_expr(&call.receiver);
        let section = usize::from(SECTIONS.contains(&method.as_str()));
        self.locked += section;
        for argument in &call.args {
            self.visit_expr(argument);
        }
        self.locked -= section;
    }

    fn visit_expr_if(&mut self, expr: &'ast syn::ExprIf) {
        self.condition(&expr.cond);
        visit::visit_expr_if(self, expr);
    }

    fn visit_expr_while(&mut self, expr: &'ast syn::ExprWhile) {
        self.condition(&expr.cond);
        visit::visit_expr_while(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.condition(guard);
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        // Each half of `a && b`, `a || b` does not count.
        let lets = has_let(&expr.left) || has_let(&expr.right);
        let constant = match expr.op {
            syn::BinOp::And(_) => Some(true),
            syn::BinOp::Or(_) => Some(false),
            _ => None,
        };
        if let Some(constant) = constant
            && self.locked > 0
            && self.protocol
            && !lets
        {
            for half in [&expr.left, &expr.right] {
                let n = self.site(&format!("half {constant}"), half.span());
                let before = format!("(if crate::mutants::on({n}) {{ {constant} }} else {{ (");
                self.wrap(half.span(), before, ") })");
            }
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        // A macro's tokens are not looked into: nothing may be there that is a site elsewhere.
        let text = it.tokens.to_string();
        for word in ["wake", "fence", "adopt", "leak"] {
            if text.contains(word) {
                self.wrong.push(format!("a site in a macro: {text}"));
            }
        }
    }
}
