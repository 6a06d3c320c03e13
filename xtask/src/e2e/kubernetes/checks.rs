//! The checks in the cluster, in the order of an installation's life: before it, with it, through rollouts and crashes, after
//! it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use gregor_lab::threads;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    NEXT, chart, claims,
    cluster::{Cluster, NODES},
    components::Components,
    config::{CLUSTER_DNS, NODE_LOCAL, NodeName},
    figures::{self, AtRest, FirstAnswers},
    identity,
    kafka::{Brokers, own_brokers},
    labels, learnt,
    load::{Load, fetch},
    manifests::{self, TENANTS},
    monitoring,
    pods::*,
    policies::{ndots, ndots_by_kyverno, observed, only_foo},
    protected,
    results::Results,
    services, taint,
};
use crate::{machine, manifests::KUBE_VERSION};

/// Pods of a crowd, on two nodes of 110.
const CROWD: usize = 100;
const MIB: u64 = 1 << 20;

/// The cluster's DNS and the tenants, without gregor.
pub fn prepare(cluster: &Cluster, results: &mut Results) -> Result<()> {
    results.step(
        "both nodes are ready, with pods of two tenants and a stranger",
        || {
            cluster.apply(&manifests::dns(), &[])?;
            cluster.apply(&manifests::tenants(), &[])?;
            rolled_out(cluster, "kube-system", "deployment/coredns")?;
            rolled_out(cluster, "kube-system", "daemonset/node-local-dns")?;
            for namespace in namespaces() {
                for kind in ["glibc", "musl"] {
                    rolled_out(cluster, namespace, &format!("daemonset/{kind}"))?;
                }
            }
            Ok(String::new())
        },
    );
    results.check(
        "without gregor every namespace gets the public address",
        || all_public(cluster),
    );
    Ok(())
}

pub fn all(cluster: &Cluster, components: &Components, results: &mut Results) -> Result<()> {
    prepare(cluster, results)?;
    accepted(cluster, components, results);
    let before = NODES.map(|node| Footprint::of(cluster, node));
    results.check(
        "a pod for a node with the startup taint waits for it to be taken away",
        || taint::pod_waits(cluster),
    );

    results.step(
        "the chart is installed and finds the cluster DNS's address",
        || {
            let answers = FirstAnswers::wait(cluster)?;
            let started = Instant::now();
            helm(cluster, "install", &[])?;
            rolled_out(cluster, "kube-system", DAEMON_SET)?;
            let took = started.elapsed();
            for node in NODES {
                let said = status(cluster, node)?["node"].clone();
                ensure!(said == node.to_string(), "{node} says that it is {said}");
            }
            let status = status(cluster, NODES[0])?;
            let servers: Vec<&str> = status["servers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let (cache, service) = (NODE_LOCAL.to_string(), CLUSTER_DNS.to_string());
            ensure!(servers == [cache, service], "{servers:?}");
            Ok(format!(
                "ready on both nodes after {:.1} s; {}",
                took.as_secs_f64(),
                answers.of(cluster)?
            ))
        },
    );
    results.check(
        "with gregor ready the taint is taken away, and the pod's first query is answered",
        || taint::first_query_is_answered(cluster),
    );
    results.check(
        "foo and bar get their own endpoint, baz what it got before (glibc, musl, both nodes)",
        || own_endpoints(cluster),
    );
    results.check("so they do where pods ask the Service's address", || {
        let mut load = Load::new();
        let mut pods = 0;
        for node in NODES {
            for (tenant, _) in TENANTS {
                let pod = tenant_pod(cluster, tenant, "glibc", node)?;
                load.add(
                    tenant,
                    process(cluster, &pod)?,
                    CLUSTER_DNS.into(),
                    questions(tenant),
                )?;
                pods += 1;
            }
        }
        cluster.wait_until("queries", MINUTE, || Ok(load.sent() >= 200))?;
        flawless(load.finish(), &format!("{pods} pods"))
    });
    results.check("a new pod's first query is answered", || {
        first_query(cluster)
    });
    results.check(
        "every metric of the alerts and of the dashboard is on the page",
        || metrics(cluster),
    );

    // Nothing of this concerns the cluster's pods.
    let rest = AtRest::begin(cluster);
    let mut brokers = Brokers::start(cluster);
    results.check(
        "pods with the annotation get their ndots by Kyverno's policy",
        || ndots_by_kyverno(cluster, components),
    );
    results.check("a real Prometheus scrapes each pod of gregor", || {
        monitoring::scraped(cluster)
    });
    results.check("at rest for a minute", || match &rest {
        Ok(rest) => rest.end(cluster),
        Err(error) => bail!("{error:#}"),
    });
    results.check("under ten thousand answers per second on each node", || {
        figures::under_answers(cluster)
    });

    services::checks(cluster, results);

    let restarts = || -> Result<String> {
        let pods = gregors(cluster)?;
        let restarts: Vec<u64> = pods.iter().map(restarts_of).collect();
        ensure!(
            restarts.iter().all(|count| *count == 0),
            "restarts: {restarts:?}"
        );
        Ok(String::new())
    };
    results.check("a changed ConfigMap is in force without a restart", || {
        let took = config_change(cluster)?;
        restarts()?;
        Ok(format!("after {:.0} s", took.as_secs_f64()))
    });
    results.check(
        "the runtime's default seccomp profile is enough, and each thread has the documented capabilities",
        || confined(cluster),
    );
    results.check("the memory limit holds through reloads", || memory(cluster));
    results.check(
        "Kafka's clients (Java, kcat) in pods of two tenants reach their own brokers, which have the same names",
        || match &mut brokers {
            Ok(brokers) => own_brokers(cluster, brokers),
            Err(error) => bail!("{error:#}"),
        },
    );
    drop(brokers);
    results.check(
        "servers = \"auto\": the kubelet's and the Service's are intercepted, and followed",
        || learnt::learnt(cluster),
    );
    let own = "unmodified names lead to each pod's own endpoint, and no pod gets another tenant's";
    results.check(&format!("by the CNI's results and the API: {own}"), || {
        identity::by(cluster, &["cni", "kubernetes"])
    });
    results.check(
        "names that two tenants claim by an annotation lead each to its own endpoint",
        || claims::claimed(cluster),
    );
    results.check(
        "protected targets are refused to pods of other namespaces, and to no pod of their own",
        || protected::protected(cluster),
    );
    results.check("without identity again, no endpoint is lost", || {
        identity::off(cluster)
    });
    for (round, tag) in [(1, NEXT), (2, env!("CARGO_PKG_VERSION"))] {
        results.check(
            &format!("rollout {round} to another image loses no query and no endpoint"),
            || {
                under_load(cluster, || {
                    helm(cluster, "upgrade", &["--set", &format!("image.tag={tag}")])?;
                    settled(cluster)?;
                    for pod in gregors(cluster)? {
                        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or("");
                        ensure!(image.ends_with(tag), "a pod has {image}");
                    }
                    restarts()?;
                    Ok(())
                })
            },
        );
    }
    results.check(
        "a rollout to a missing image leaves the pods before at work, and is rolled back",
        || {
            under_load(cluster, || {
                helm(cluster, "upgrade", &["--set", "image.tag=missing"])?;
                cluster.wait_until("a pod lacks its image", MINUTE, || {
                    Ok(gregors(cluster)?.iter().any(|pod| {
                        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
                        waiting["reason"] == "ErrImageNeverPull"
                    }))
                })?;
                cluster.helm(&["rollback", "gregor", NAMESPACE])?;
                settled(cluster)
            })
        },
    );
    results.check(
        "a configuration that is wrong is refused, and the last good one goes on",
        || refused_config(cluster),
    );
    results.check("`gregor check` in the pod finds the node fit", || {
        let said = cluster.kubectl(&[
            "exec",
            NAMESPACE,
            DAEMON_SET,
            "--",
            "gregor",
            "check",
            "--config",
            "/etc/gregor/gregor.toml",
        ])?;
        let warnings = said.lines().filter(|line| line.starts_with("WARNING"));
        let warnings: Vec<&str> = warnings.map(|line| line[7..].trim()).collect();
        Ok(format!(
            "{} warnings: {}",
            warnings.len(),
            warnings.join("; ")
        ))
    });
    results.check("the memory limit holds through the rollouts", || {
        memory(cluster)
    });
    results.check(
        "`kubectl delete pod --grace-period=0 --force` on each node loses nothing",
        || {
            under_load(cluster, || {
                for node in NODES {
                    let pod = gregor_on(cluster, node)?;
                    let name = name_of(&pod);
                    cluster.kubectl(&[
                        "delete",
                        "pod",
                        NAMESPACE,
                        name,
                        "--grace-period=0",
                        "--force",
                    ])?;
                    another_is_ready(cluster, node, &pod)?;
                }
                Ok(())
            })
        },
    );
    results.check("kill -9 on each node, twice, loses nothing", || {
        under_load(cluster, || {
            for _ in 0..2 {
                restarted_after(cluster, &NODES, Signal::SIGKILL)?;
            }
            Ok(())
        })
    });
    results.check(
        "a hung process is ended by its probe, and loses nothing that is known",
        || {
            under_load(cluster, || {
                restarted_after(cluster, &NODES[..1], Signal::SIGSTOP)
            })
        },
    );
    results.check(
        "pods with the annotation get their ndots, and their own endpoint",
        || ndots(cluster),
    );
    results.check("a rule is for the namespaces with a label", || {
        labels::chosen(cluster)
    });
    // While the Event of that rule is waited for.
    results.check(
        &format!("{CROWD} pods come and go and leave nothing behind"),
        || crowd(cluster),
    );
    results.check(
        "a Service in a namespace without the label has an Event that says so, one for both nodes",
        || labels::not_allowed(cluster),
    );
    results.check("a rule is for the namespaces that it names", || {
        only_foo(cluster)
    });
    results.check(
        "in observe mode every pod gets what it got before, and it is counted",
        || observed(cluster),
    );
    results.check(
        "privileged, in place of single capabilities, it works as well",
        || {
            helm(cluster, "upgrade", &["--set", "privileged=true"])?;
            settled(cluster)?;
            own_endpoints(cluster)?;
            helm(cluster, "upgrade", &[])?;
            settled(cluster)?;
            Ok(String::new())
        },
    );
    // The last one that kills the API server: after a second time the cluster's own programs wait half a minute before they ask
    // it again.
    results.check(
        &format!("by the API alone, which goes away and comes back: {own}"),
        || identity::by_api_alone(cluster),
    );
    results.step(
        "taken off and uninstalled, no program, pin or interface of it is left",
        || {
            let started = Instant::now();
            helm(cluster, "upgrade", &["--set", "detach=true"])?;
            rolled_out(cluster, "kube-system", DAEMON_SET)?;
            cluster.helm(&["uninstall", "gregor", NAMESPACE, "--wait"])?;
            let took = started.elapsed();
            cluster.wait_until("its pods are gone", MINUTE, || {
                Ok(gregors(cluster)?.is_empty())
            })?;
            for (node, before) in NODES.into_iter().zip(before) {
                let left = Footprint::of(cluster, node)?.without(&before?);
                ensure!(left == Footprint::default(), "{node}: {left:?}");
            }
            Ok(format!("after {:.0} s", took.as_secs_f64()))
        },
    );
    results.check("every namespace gets the public address again", || {
        all_public(cluster)
    });
    Ok(())
}

/// Each manifest, as the API server sees it.
fn accepted(cluster: &Cluster, components: &Components, results: &mut Results) {
    results.check(
        "the API server accepts every manifest, with all values on",
        || {
            let resources: Vec<String> = components
                .custom_resources
                .iter()
                .map(|path| format!("--filename={}", path.display()))
                .collect();
            let mut arguments = vec!["apply", "--server-side"];
            arguments.extend(resources.iter().map(String::as_str));
            cluster.kubectl(&arguments)?;
            cluster.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "crd/podmonitors.monitoring.coreos.com",
                "crd/prometheusrules.monitoring.coreos.com",
            ])?;
            let mut accepted = 0;
            let directory = machine::root()?.join("deploy/manifests");
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                let text = fs::read_to_string(&path)?;
                accepted += dry_run(cluster, &text).with_context(|| path.display().to_string())?;
            }
            let chart = chart()?.display().to_string();
            for values in [
                &[
                    "--set",
                    "podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true",
                ][..],
                &["--set", "privileged=true,handover=false,mode=observe"],
                &["--set", "ndotsPolicy.enabled=true"],
                &["--set", "detach=true,preset=service"],
                &[
                    "--set",
                    "preset=auto,kubernetes.kubeletConfigDir=/etc/kubelet.d",
                ],
                &["--set", "appArmorProfile.type=Unconfined,preset=gke"],
            ] {
                let mut arguments = vec![
                    "template",
                    "gregor",
                    &chart,
                    NAMESPACE,
                    "--set",
                    "clusterDNS={10.96.0.10}",
                    "--kube-version",
                    KUBE_VERSION,
                ];
                arguments.extend(values);
                let text = cluster.helm(&arguments)?;
                accepted += dry_run(cluster, &text).with_context(|| format!("{values:?}"))?;
            }
            Ok(format!("{accepted} objects"))
        },
    );
}

fn dry_run(cluster: &Cluster, manifests: &str) -> Result<usize> {
    let said = cluster.apply(manifests, &["--dry-run=server"])?;
    Ok(said
        .lines()
        .filter(|line| line.ends_with("(server dry run)"))
        .count())
}

/// What confines gregor on each node.
fn confined(cluster: &Cluster) -> Result<String> {
    let mut filters = Vec::new();
    for node in NODES {
        let pod = gregor_on(cluster, node)?;
        let profile = &pod["spec"]["securityContext"]["seccompProfile"]["type"];
        ensure!(profile == "RuntimeDefault", "seccompProfile: {profile}");
        let pid = process(cluster, &pod)?;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map_or("", str::trim).to_owned()
            };
            ensure!(field("Seccomp:") == "2", "no filter: {status}");
            filters.push(format!("{} of mode 2", field("Seccomp_filters:")));
        }
        threads::are_as_documented(pid, "")?;
    }
    filters.sort();
    filters.dedup();
    Ok(format!("seccomp filters: {}", filters.join("; ")))
}

/// Pods of a Job-like kind ask as soon as they run, and see their endpoint at once.
fn first_query(cluster: &Cluster) -> Result<String> {
    const PODS: usize = 5;
    let ndots = serde_json::json!({ "options": [{ "name": "ndots", "value": "7" }] });
    let (mut pods, mut expected) = (Vec::new(), Vec::new());
    for (number, (tenant, endpoint)) in TENANTS.into_iter().cycle().take(PODS).enumerate() {
        let name = format!("first-{number}");
        pods.push(job(&name, tenant, &Value::Null, &ndots));
        expected.push(addresses(endpoint));
    }
    let found = found_by(cluster, &pods)?;
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(format!("{PODS} pods that ask as soon as they start"))
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("gregor_"))
        .collect()
}

fn metrics(cluster: &Cluster) -> Result<String> {
    let chart = chart()?;
    let pod = gregor_on(cluster, NODES[0])?;
    let page = fetch(process(cluster, &pod)?, "127.0.0.1:9753", "/metrics")?;
    let there = metrics_in(&page);
    let mut used = 0;
    for file in ["templates/prometheusrule.yaml", "dashboards/gregor.json"] {
        let text = fs::read_to_string(chart.join(file))?;
        for name in metrics_in(&text) {
            // Families without a sample have a line with their type, without the suffix of counters.
            let family = name.strip_suffix("_total").unwrap_or(name);
            let is_there = there.contains(name) || there.contains(family);
            ensure!(is_there, "{file} uses {name}, which is not there");
            used += 1;
        }
    }
    Ok(format!("{used} uses"))
}

/// A second rule is added by the ConfigMap and takes effect.
fn config_change(cluster: &Cluster) -> Result<Duration> {
    let values = serde_json::json!([
        {
            "name": "kafka",
            "match": "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
            "cname": "kafka-upstream.{namespace}.svc.cluster.local",
            "ttl": 60,
        },
        {
            "name": "added",
            "match": "*.added.example.{namespace}.svc.cluster.local",
            "cname": "kafka-upstream.{namespace}.svc.cluster.local",
        },
    ]);
    let started = Instant::now();
    helm(
        cluster,
        "upgrade",
        &["--set-json", &format!("rules={values}")],
    )?;
    for node in NODES {
        cluster.wait_until(
            &format!("the second rule is in force on {node}"),
            3 * MINUTE,
            || {
                let status = status(cluster, node)?;
                Ok(status["rules"]
                    .as_array()
                    .is_some_and(|rules| rules.len() == 2))
            },
        )?;
    }
    let took = started.elapsed();
    let (tenant, expected) = TENANTS[0];
    let pod = tenant_pod(cluster, tenant, "glibc", NODES[0])?;
    let found = lookup(cluster, &pod, "a.b.c.added.example")?;
    ensure!(found == addresses(expected), "{found:?}");
    helm(cluster, "upgrade", &[])?;
    for node in NODES {
        cluster.wait_until("one rule is in force", 3 * MINUTE, || {
            let status = status(cluster, node)?;
            Ok(status["rules"]
                .as_array()
                .is_some_and(|rules| rules.len() == 1))
        })?;
    }
    Ok(took)
}

/// The ConfigMap is made invalid and corrected again.
fn refused_config(cluster: &Cluster) -> Result<String> {
    let error = |node| -> Result<Value> { Ok(status(cluster, node)?["config"]["error"].clone()) };
    let spoiled = "[intercept]\nservers = [\"nowhere\"]";
    helm(cluster, "upgrade", &["--set", &format!("config={spoiled}")])?;
    for node in NODES {
        cluster.wait_until("the configuration is refused", 3 * MINUTE, || {
            Ok(!error(node)?.is_null())
        })?;
    }
    own_endpoints(cluster)?;
    let said = error(NODES[0])?;
    helm(cluster, "upgrade", &[])?;
    for node in NODES {
        cluster.wait_until("the configuration is right", 3 * MINUTE, || {
            Ok(error(node)?.is_null())
        })?;
    }
    let first = said.as_str().unwrap_or_default().lines().next();
    Ok(first.unwrap_or_default().to_owned())
}

/// The most that each pod has taken is within its limit, and none was ended for it.
fn memory(cluster: &Cluster) -> Result<String> {
    let mut said = Vec::new();
    for pod in gregors(cluster)? {
        let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"];
        ensure!(last != "OOMKilled", "{} was out of memory", name_of(&pod));
        for group in cluster.cgroups(&pod)? {
            let read = |names: [&str; 2]| -> Result<u64> {
                let text = names
                    .iter()
                    .find_map(|name| fs::read_to_string(group.join(name)).ok())
                    .context("no such file of the memory controller")?;
                Ok(text.trim().parse()?)
            };
            let peak = read(["memory.max_usage_in_bytes", "memory.peak"])?;
            let limit = read(["memory.limit_in_bytes", "memory.max"])?;
            ensure!(peak < limit, "{}: {peak} of {limit}", name_of(&pod));
            said.push(format!("{} MiB of {} MiB", peak / MIB, limit / MIB));
        }
    }
    ensure!(!said.is_empty(), "no pod");
    Ok(format!("at most {}", said.join(", ")))
}

fn crowd(cluster: &Cluster) -> Result<String> {
    let (tenant, _) = TENANTS[0];
    let attached = || -> Result<Vec<usize>> {
        NODES
            .into_iter()
            .map(|node| {
                let status = status(cluster, node)?;
                Ok(status["interfaces"].as_array().map_or(0, Vec::len))
            })
            .collect()
    };
    let before = attached()?;
    let pins = |node| cluster.on_node_pins(node);
    let pins_before = NODES.map(pins);
    let started = Instant::now();
    cluster.apply(&manifests::crowd(tenant, CROWD), &[])?;
    rolled_out(cluster, tenant, "deployment/crowd")?;
    cluster.wait_until("all interfaces are attached", MINUTE, || {
        let more: usize = attached()?.iter().sum();
        Ok(more == before.iter().sum::<usize>() + CROWD)
    })?;
    let up = started.elapsed();
    // All of them first: a hundred pods that ask while the others are looked for are more than the cluster's DNS on this machine
    // has an answer for.
    let crowd = pods(cluster, tenant, "app=crowd")?;
    let crowd = crowd.iter().map(|pod| process(cluster, pod));
    let crowd = crowd.collect::<Result<Vec<u32>>>()?;
    let mut load = Load::new();
    for pid in crowd {
        load.add("crowd", pid, NODE_LOCAL.into(), questions(tenant))?;
    }
    cluster.wait_until("queries", MINUTE, || Ok(load.sent() >= 2_000))?;
    flawless(load.finish(), "the crowd")?;
    cluster.kubectl(&[
        "delete",
        "deployment",
        &format!("--namespace={tenant}"),
        "crowd",
    ])?;
    cluster.wait_until("all interfaces are gone", 2 * MINUTE, || {
        Ok(attached()? == before)
    })?;
    for (node, before) in NODES.into_iter().zip(pins_before) {
        let (before, after) = (before?, pins(node)?);
        ensure!(
            before == after,
            "{node}: pins {before:?} before, {after:?} after"
        );
    }
    Ok(format!("up and attached after {:.0} s", up.as_secs_f64()))
}

/// What gregor could leave behind on a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Footprint {
    interfaces: Vec<String>,
    pins: Vec<String>,
    programs: Vec<String>,
}

impl Footprint {
    /// What was not there before.
    fn without(mut self, before: &Self) -> Self {
        for (now, before) in [
            (&mut self.interfaces, &before.interfaces),
            (&mut self.pins, &before.pins),
            (&mut self.programs, &before.programs),
        ] {
            now.retain(|one| !before.contains(one));
        }
        self
    }

    fn of(cluster: &Cluster, node: NodeName) -> Result<Self> {
        let links = cluster.on_node(node, "ip", &["-json", "link"])?;
        let links: Value = serde_json::from_str(&links)?;
        let mut interfaces: Vec<String> = links
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|link| Some(link["ifname"].as_str()?.to_owned()))
            // Those of pods have random names.
            .filter(|name| !name.starts_with("veth"))
            .collect();
        interfaces.sort();
        // Of the whole kernel: both nodes are one machine, where another test may have some of its own that end meanwhile.
        let programs = cluster.on_node(node, "bpftool", &["--json", "prog", "list"])?;
        let programs: Value = serde_json::from_str(&programs)?;
        let mut programs: Vec<String> = programs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|program| Some((program["name"].as_str()?, program["id"].as_u64()?)))
            .filter(|(name, _)| name.starts_with("gregor"))
            .map(|(name, id)| format!("{name} {id}"))
            .collect();
        programs.sort();
        Ok(Self {
            interfaces,
            pins: cluster.on_node_pins(node)?,
            programs,
        })
    }
}

impl Cluster {
    /// Everything that is pinned on a node's bpffs.
    fn on_node_pins(&self, node: NodeName) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut directories = vec!["/sys/fs/bpf".to_owned()];
        while let Some(directory) = directories.pop() {
            for name in self.files_on_node(node, &directory)? {
                let path = Path::new(&directory).join(name).display().to_string();
                found.push(path.clone());
                directories.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_in_expressions() {
        let text = r#"expr: 'sum(rate(gregor_a_total{node="x"}[5m])) > gregor_b'"#;
        assert_eq!(
            metrics_in(text).into_iter().collect::<Vec<_>>(),
            ["gregor_a_total", "gregor_b"]
        );
    }
}
