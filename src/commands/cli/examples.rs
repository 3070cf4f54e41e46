//! The examples at the end of each command's help. A test parses them.

/// By the path of the command; what follows the program's name.
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "demo",
            "check -b mqtts://broker.example.com -u observer",
            "guide install",
        ],
    ),
    ("demo", &["demo", "demo --once", "demo --port 2883"]),
    (
        "check",
        &[
            "check -b mqtt://observer@localhost:1883",
            "check -c observer.toml --json",
            "check --probe-token-file alice.jwt",
        ],
    ),
    (
        "run",
        &[
            "run -b mqtts://broker.example.com -u observer",
            "run -c /etc/chat21-observer/observer.toml",
            "run --store none --app tilechat -v",
        ],
    ),
    (
        "health",
        &[
            "health",
            "health --http-listen 9181",
            "health -c observer.toml",
        ],
    ),
    (
        "watch",
        &[
            "watch",
            "watch --user alice --user bob",
            "watch --outcome refused --json",
        ],
    ),
    (
        "send",
        &[
            "send --as alice bob hello",
            "send --as alice group-1 hello --app tilechat",
            "send bob hello -u alice --token-file alice.jwt",
        ],
    ),
    (
        "inbox",
        &[
            "inbox bob",
            "inbox bob --history 20",
            "inbox -u bob --token-file bob.jwt --json",
        ],
    ),
    (
        "explain",
        &[
            "explain apps/shop/outgoing/users/al/messages/bo/outgoing",
            "explain apps/shop/users/bo/inbox/fetch --json",
            "explain apps/shop/users/al/presence/phone --payload {}",
        ],
    ),
    (
        "bench",
        &[
            "bench -b mqtt://observer@localhost:1883 --ceiling",
            "bench --rate 500,1000,2000 --plot latency.svg",
            "bench --group-size 1000 --for 30s --json",
        ],
    ),
    (
        "group",
        &[
            "group list",
            "group show tilechat team",
            "group add-member tilechat team carol",
        ],
    ),
    (
        "group list",
        &[
            "group list",
            "group list tilechat",
            "group list --json --store observer.db",
        ],
    ),
    (
        "group show",
        &[
            "group show tilechat team",
            "group show tilechat team --state-dir /srv/observer",
            "group show tilechat team > team.json",
        ],
    ),
    (
        "group set",
        &[
            "group set tilechat team team.json",
            "group set tilechat team team.json --tell",
            "group set tilechat team - < team.json",
        ],
    ),
    (
        "group add-member",
        &[
            "group add-member tilechat team carol",
            "group add-member tilechat team carol --broker mqtts://mq",
            "group add-member tilechat team carol -c observer.toml",
        ],
    ),
    (
        "group remove-member",
        &[
            "group remove-member tilechat team carol",
            "group remove-member tilechat team carol --broker mqtts://mq",
            "group remove-member tilechat team carol -c observer.toml",
        ],
    ),
    (
        "group remove",
        &[
            "group remove tilechat team",
            "group remove tilechat team --store observer.db",
            "group remove tilechat team -c observer.toml",
        ],
    ),
    (
        "block",
        &[
            "block list tilechat alice",
            "block ban tilechat mallory",
            "block set tilechat alice bob",
        ],
    ),
    (
        "block list",
        &[
            "block list",
            "block list tilechat alice",
            "block list --json",
        ],
    ),
    (
        "block set",
        &[
            "block set tilechat alice bob",
            "block set tilechat alice bob --store observer.db",
            "block set tilechat alice bob -c observer.toml",
        ],
    ),
    (
        "block clear",
        &[
            "block clear tilechat alice bob",
            "block clear tilechat alice bob --store observer.db",
            "block clear tilechat alice bob -c observer.toml",
        ],
    ),
    (
        "block ban",
        &[
            "block ban tilechat mallory",
            "block ban tilechat mallory --store observer.db",
            "block ban tilechat mallory -c observer.toml",
        ],
    ),
    (
        "block unban",
        &[
            "block unban tilechat mallory",
            "block unban tilechat mallory --store observer.db",
            "block unban tilechat mallory -c observer.toml",
        ],
    ),
    (
        "webhook",
        &[
            "webhook list --given-up",
            "webhook retry",
            "webhook drop --all",
        ],
    ),
    (
        "webhook list",
        &[
            "webhook list",
            "webhook list --given-up",
            "webhook list --json",
        ],
    ),
    (
        "webhook retry",
        &[
            "webhook retry",
            "webhook retry e50fa017-737c-4c3a-9d8e-0a6f3c1b2d4e",
            "webhook retry --all --store observer.db",
        ],
    ),
    (
        "webhook drop",
        &[
            "webhook drop",
            "webhook drop e50fa017-737c-4c3a-9d8e-0a6f3c1b2d4e",
            "webhook drop --all --store observer.db",
        ],
    ),
    (
        "store",
        &[
            "store stats",
            "store export tilechat alice bob",
            "store prune 90d",
        ],
    ),
    (
        "store stats",
        &[
            "store stats",
            "store stats --json",
            "store stats --store observer.db",
        ],
    ),
    (
        "store backup",
        &[
            "store backup copy.db",
            "store backup /backup/observer.db --store observer.db",
            "store backup copy.db --config observer.toml",
        ],
    ),
    (
        "store export",
        &[
            "store export tilechat alice",
            "store export tilechat alice bob",
            "store export tilechat team team > team.jsonl",
        ],
    ),
    (
        "store import",
        &[
            "store import --messages messages.json",
            "store import --groups groups.json --store observer.db",
            "store import --conversations conversations.json",
        ],
    ),
    (
        "store copy",
        &[
            "store copy observer.db postgres://observer@db.example.com/chat",
            "store copy postgres://observer@db/chat observer.db",
            "store copy old.db new.db --client-id-file none",
        ],
    ),
    (
        "store prune",
        &[
            "store prune 90d",
            "store prune 1year --store observer.db",
            "store prune 30d -c observer.toml",
        ],
    ),
    (
        "store check",
        &[
            "store check",
            "store check --store observer.db",
            "store check -c observer.toml",
        ],
    ),
    (
        "config",
        &[
            "config init observer.toml",
            "config check -c observer.toml",
            "config show --origin",
        ],
    ),
    (
        "config init",
        &[
            "config init",
            "config init observer.toml",
            "config init --all observer.toml",
        ],
    ),
    (
        "config check",
        &[
            "config check",
            "config check -c observer.toml",
            "config check -c observer.toml -b mqtts://broker",
        ],
    ),
    (
        "config show",
        &[
            "config show",
            "config show --origin",
            "config show -c observer.toml --json",
        ],
    ),
    (
        "acl",
        &[
            "acl rabbitmq --app tilechat",
            "acl mosquitto --app tilechat --part acl > chat.acl",
            "acl rabbitmq --part conf",
        ],
    ),
    (
        "slots rabbitmq",
        &[
            "slots rabbitmq -c observer.toml > slots.json",
            "slots rabbitmq -c observer.toml --queues quorum > slots.json",
            "slots rabbitmq -c observer.toml --vhost chat > slots.json",
        ],
    ),
    (
        "slots",
        &[
            "slots rabbitmq -c observer.toml > slots.json",
            "slots rabbitmq -c observer.toml --queues quorum > slots.json",
            "slots rabbitmq -c observer.toml --vhost chat > slots.json",
        ],
    ),
    (
        "token",
        &[
            "token mint user tilechat alice --jwt-key-file key.txt",
            "token mint service --jwt-key-file key.txt",
            "token inspect alice.jwt",
        ],
    ),
    (
        "token mint",
        &[
            "token mint user tilechat alice --jwt-key-file key.txt",
            "token mint user shop bob --ttl 1h --jwt-key-file k.pem",
            "token mint service --jwt-key-file key.txt",
        ],
    ),
    (
        "token mint user",
        &[
            "token mint user tilechat alice --jwt-key-file key.txt",
            "token mint user shop bob --ttl 1h --jwt-key-file k.pem",
            "token mint user shop bob --any-session -c observer.toml",
        ],
    ),
    (
        "token mint service",
        &[
            "token mint service --jwt-key-file key.txt",
            "token mint service backend --ttl 1year",
            "token mint service -c observer.toml > observer.jwt",
        ],
    ),
    (
        "token inspect",
        &[
            "token inspect alice.jwt",
            "token inspect alice.jwt --jwt-key-file key.txt",
            "token inspect --json < alice.jwt",
        ],
    ),
    (
        "guide",
        &["guide", "guide install", "guide settings | less"],
    ),
    (
        "man",
        &[
            "man | man -l -",
            "man run | man -l -",
            "man token mint user",
        ],
    ),
    (
        "completions",
        &[
            "completions bash > chat21-observer.bash",
            "completions zsh > _chat21-observer",
            "completions fish",
        ],
    ),
];
