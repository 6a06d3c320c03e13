//! Compiles a realistic set of rules of the given size and prints time and memory: `-- 1000`.

use std::time::Instant;

use gregor::rules::RuleSet;
use gregor::rules::testing::realistic_rules;

fn main() -> anyhow::Result<()> {
    let count = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1000,
    };
    let specs = realistic_rules(count);
    let start = Instant::now();
    let rules = RuleSet::compile(&specs).map_err(|complaints| {
        anyhow::anyhow!("{} complaints, first {}", complaints.len(), complaints[0])
    })?;
    let elapsed = start.elapsed();
    let table = rules.table();
    println!(
        "{count} rules: {elapsed:.2?}, {} entries, {} KiB, {} heads, {} tails",
        table.header.entries,
        table.bytes() / 1024,
        table.header.head_count,
        table.tails.len(),
    );
    Ok(())
}
