//! A resolver that lives as long as its input: for each name of standard input one line with the IPv4 addresses that c-ares
//! finds, or `error: ` and why it finds none. The server to ask is argv[1].

use std::{io, sync::mpsc, time::Duration};

use c_ares::{Channel, EventSys, Flags, Options};

fn main() {
    let server = std::env::args().nth(1).expect("a server's address");
    let mut options = Options::new();
    options
        .set_flags(Flags::EDNS)
        .set_event_thread(EventSys::Default)
        .set_query_cache_max_ttl(0)
        .set_timeout(Duration::from_secs(1))
        .set_tries(3);
    let mut channel = Channel::with_options(options).expect("a channel");
    channel.set_servers(&[server]).expect("the server");
    for name in io::stdin().lines() {
        let (sender, found) = mpsc::channel();
        channel.query_a(&name.expect("a name"), move |found| {
            let line = match found {
                Ok(found) => {
                    let addresses = found.iter().map(|record| record.ipv4().to_string());
                    addresses.collect::<Vec<_>>().join(" ")
                }
                Err(error) => format!("error: {error}"),
            };
            let _ = sender.send(line);
        });
        println!("{}", found.recv().expect("what c-ares has found"));
    }
}
