-- The tables of schema 2 on PostgreSQL, as Taskloom made them. Never to be changed: upgrades start here.
CREATE TABLE taskloom_tasks (
	seq BIGSERIAL NOT NULL,
	id TEXT COLLATE "C" NOT NULL,
	queue_id TEXT COLLATE "C" NOT NULL,
	type TEXT COLLATE "C" NOT NULL,
	status TEXT COLLATE "C" NOT NULL,
	due_at BIGINT,
	was_due BIGINT,
	epoch BIGINT DEFAULT '0' NOT NULL,
	deliveries INTEGER DEFAULT '0' NOT NULL,
	expires_at BIGINT,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	started_at BIGINT,
	entity_id TEXT COLLATE "C",
	entity_type TEXT COLLATE "C",
	body TEXT NOT NULL,
	stats TEXT,
	result TEXT,
	PRIMARY KEY (seq),
	CONSTRAINT taskloom_tasks_id UNIQUE (id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000, vacuum_truncate = false);
CREATE INDEX taskloom_tasks_expiring ON taskloom_tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX taskloom_tasks_entity ON taskloom_tasks (entity_id, entity_type) WHERE entity_id IS NOT NULL;
CREATE INDEX taskloom_tasks_executed ON taskloom_tasks (updated_at) WHERE status = 'executed';
CREATE INDEX taskloom_tasks_leased ON taskloom_tasks (due_at) WHERE status = 'processing';
CREATE INDEX taskloom_tasks_due ON taskloom_tasks (queue_id, due_at, seq) WHERE due_at IS NOT NULL;
CREATE INDEX taskloom_tasks_status ON taskloom_tasks (status, created_at) WHERE status = 'queued' OR status = 'failed' OR status = 'expired' OR status = 'ignored' OR status = 'cancelled';
CREATE INDEX taskloom_tasks_created ON taskloom_tasks (created_at);
CREATE TABLE taskloom_tallies (
	queue_id TEXT COLLATE "C" NOT NULL,
	status TEXT COLLATE "C" NOT NULL,
	slot INTEGER NOT NULL,
	n BIGINT NOT NULL,
	PRIMARY KEY (queue_id, status, slot)
)
 WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000, fillfactor = 50);
CREATE TABLE taskloom_dead_records (
	seq BIGSERIAL NOT NULL,
	digest TEXT COLLATE "C" NOT NULL,
	queue_id TEXT COLLATE "C" NOT NULL,
	raw BYTEA NOT NULL,
	reason TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (seq),
	UNIQUE (digest)
);
CREATE TABLE taskloom_workers (
	worker_id TEXT COLLATE "C" NOT NULL,
	body TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	PRIMARY KEY (worker_id)
);
CREATE TABLE taskloom_cache (
	key TEXT COLLATE "C" NOT NULL,
	value TEXT,
	owner TEXT,
	expires_at BIGINT,
	PRIMARY KEY (key)
)
 WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);
CREATE INDEX taskloom_cache_over ON taskloom_cache (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE taskloom_meta (
	key TEXT COLLATE "C" NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (key)
);
CREATE TABLE taskloom_flows (
	flow_id TEXT COLLATE "C" NOT NULL,
	total INTEGER NOT NULL,
	counted INTEGER NOT NULL,
	failed INTEGER NOT NULL,
	state TEXT NOT NULL,
	end_ TEXT,
	trigger INTEGER,
	join_body TEXT,
	started_at BIGINT NOT NULL,
	ended_at BIGINT,
	sent_at BIGINT,
	PRIMARY KEY (flow_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000, fillfactor = 50);
CREATE INDEX taskloom_flows_ready ON taskloom_flows (ended_at) WHERE state = 'ready';
CREATE INDEX taskloom_flows_sent ON taskloom_flows (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX taskloom_flows_started ON taskloom_flows (started_at);
CREATE TABLE taskloom_flow_steps (
	flow_id TEXT COLLATE "C" NOT NULL,
	step_index INTEGER NOT NULL,
	status TEXT COLLATE "C" NOT NULL,
	result TEXT NOT NULL,
	error TEXT NOT NULL,
	PRIMARY KEY (flow_id, step_index)
);
CREATE TABLE taskloom_projections (
	task_id TEXT COLLATE "C" NOT NULL,
	entity_id TEXT COLLATE "C" NOT NULL,
	entity_type TEXT COLLATE "C" NOT NULL,
	task_type TEXT COLLATE "C" NOT NULL,
	queue_id TEXT COLLATE "C" NOT NULL,
	status TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	payload TEXT,
	error TEXT,
	result TEXT,
	PRIMARY KEY (task_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000, fillfactor = 85);
CREATE INDEX taskloom_projections_entity ON taskloom_projections (entity_type, entity_id);
INSERT INTO taskloom_meta VALUES ('schema_version', '3');
INSERT INTO taskloom_meta VALUES ('database', '0a1b2c3d4e5f60718293a4b5c6d7e8f9');
