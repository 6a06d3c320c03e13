use gregor::datapath::*;
use std::sync::Arc;
fn main() {
    let rules = Arc::new(gregor::rules::RuleSet::empty());
    let r = Datapath::load(&LoadOptions {
        servers: vec!["10.0.0.1".parse().unwrap()],
        rules,
        hook: detect_hook(),
        order: Order::First,
        ring_bytes: 1 << 18,
        limit: Limit {
            queries_per_second: 0,
            burst: 1,
        },
    });
    match r {
        Ok(mut d) => {
            println!("{:?}", d.summary());
        }
        Err(e) => println!("{e:#}"),
    }
}
