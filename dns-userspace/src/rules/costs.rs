//! Which rules to name when all of them together cost too much.

use std::time::Duration;

use regex_syntax::hir::Hir;

use super::budget::{Budget, Spent};
use super::{Complaint, Key, Rule, table};

/// How many rules a message names that cost too much.
const COSTLY_NAMED: usize = 3;
/// How long it may take to find out which.
const COSTLY_TIME: Duration = Duration::from_secs(1);

/// The complaints about rules that take more than the budget together; `languages` are theirs, one each.
pub(super) fn too_costly(
    rules: &[(usize, Rule)],
    languages: &[Hir],
    budget: &Budget,
    spent: Spent,
) -> Complaint {
    let few = Budget::new(COSTLY_TIME, budget.bytes());
    // The costs of rules with literal labels at the end add up; those of others multiply.
    let mut costs: Vec<((usize, usize), usize)> = rules
        .iter()
        .zip(languages)
        .enumerate()
        .filter(|(_, ((_, rule), _))| rule.is_regex())
        .map(|(at, (_, language))| (table::cost(language, &few), at))
        .collect();
    costs.sort_by_key(|&(cost, at)| (std::cmp::Reverse(cost), at));
    costs.truncate(COSTLY_NAMED);
    let problem = budget.describe(spent);
    let Some((&(_, first), others)) = costs.split_first() else {
        return Complaint::new(
            0,
            Key::Match,
            problem,
            "use fewer rules: captures let one rule serve many names",
        );
    };
    let named = |at: usize| format!("`{}`", rules[at].1.name);
    let names: Vec<String> = costs.iter().map(|&(_, at)| named(at)).collect();
    let verb = if others.is_empty() { "costs" } else { "cost" };
    let mut complaint = Complaint::new(
        rules[first].0,
        Key::Regex,
        format!("{problem}; {} {verb} most", names.join(", ")),
        "end the expressions with literal labels and `\\.$`, use `match` where it can say the same, or fewer of them",
    );
    complaint.others = others.iter().map(|&(_, at)| rules[at].0).collect();
    complaint
}
