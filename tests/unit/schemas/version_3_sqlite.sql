-- The tables of schema 2 on SQLite, as Taskloom made them. Never to be changed: upgrades start here.
CREATE TABLE taskloom_tasks (
	seq INTEGER NOT NULL,
	id TEXT NOT NULL,
	queue_id TEXT NOT NULL,
	type TEXT NOT NULL,
	status TEXT NOT NULL,
	due_at BIGINT,
	was_due BIGINT,
	epoch BIGINT DEFAULT '0' NOT NULL,
	deliveries INTEGER DEFAULT '0' NOT NULL,
	expires_at BIGINT,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	started_at BIGINT,
	entity_id TEXT,
	entity_type TEXT,
	body TEXT NOT NULL,
	stats TEXT,
	result TEXT,
	PRIMARY KEY (seq),
	CONSTRAINT taskloom_tasks_id UNIQUE (id)
);
CREATE INDEX taskloom_tasks_due ON taskloom_tasks (queue_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX taskloom_tasks_expiring ON taskloom_tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX taskloom_tasks_entity ON taskloom_tasks (entity_id, entity_type) WHERE entity_id IS NOT NULL;
CREATE INDEX taskloom_tasks_executed ON taskloom_tasks (updated_at) WHERE status = 'executed';
CREATE INDEX taskloom_tasks_leased ON taskloom_tasks (due_at) WHERE status = 'processing';
CREATE INDEX taskloom_tasks_status ON taskloom_tasks (status, created_at) WHERE status = 'queued' OR status = 'failed' OR status = 'expired' OR status = 'ignored' OR status = 'cancelled';
CREATE INDEX taskloom_tasks_created ON taskloom_tasks (created_at);
CREATE TABLE taskloom_tallies (
	queue_id TEXT NOT NULL,
	status TEXT NOT NULL,
	slot INTEGER NOT NULL,
	n BIGINT NOT NULL,
	PRIMARY KEY (queue_id, status, slot)
);
CREATE TABLE taskloom_dead_records (
	seq INTEGER NOT NULL,
	digest TEXT NOT NULL,
	queue_id TEXT NOT NULL,
	raw BLOB NOT NULL,
	reason TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (seq),
	UNIQUE (digest)
);
CREATE TABLE taskloom_workers (
	worker_id TEXT NOT NULL,
	body TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	PRIMARY KEY (worker_id)
);
CREATE TABLE taskloom_cache (
	"key" TEXT NOT NULL,
	value TEXT,
	owner TEXT,
	expires_at BIGINT,
	PRIMARY KEY ("key")
);
CREATE INDEX taskloom_cache_over ON taskloom_cache (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE taskloom_meta (
	"key" TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY ("key")
);
CREATE TABLE taskloom_flows (
	flow_id TEXT NOT NULL,
	total INTEGER NOT NULL,
	counted INTEGER NOT NULL,
	failed INTEGER NOT NULL,
	state TEXT NOT NULL,
	end_ TEXT,
	"trigger" INTEGER,
	join_body TEXT,
	started_at BIGINT NOT NULL,
	ended_at BIGINT,
	sent_at BIGINT,
	PRIMARY KEY (flow_id)
);
CREATE INDEX taskloom_flows_ready ON taskloom_flows (ended_at) WHERE state = 'ready';
CREATE INDEX taskloom_flows_sent ON taskloom_flows (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX taskloom_flows_started ON taskloom_flows (started_at);
CREATE TABLE taskloom_flow_steps (
	flow_id TEXT NOT NULL,
	step_index INTEGER NOT NULL,
	status TEXT NOT NULL,
	result TEXT NOT NULL,
	error TEXT NOT NULL,
	PRIMARY KEY (flow_id, step_index)
);
CREATE TABLE taskloom_projections (
	task_id TEXT NOT NULL,
	entity_id TEXT NOT NULL,
	entity_type TEXT NOT NULL,
	task_type TEXT NOT NULL,
	queue_id TEXT NOT NULL,
	status TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	payload TEXT,
	error TEXT,
	result TEXT,
	PRIMARY KEY (task_id)
);
CREATE INDEX taskloom_projections_entity ON taskloom_projections (entity_type, entity_id);
INSERT INTO taskloom_meta VALUES ('schema_version', '3');
INSERT INTO taskloom_meta VALUES ('database', '0a1b2c3d4e5f60718293a4b5c6d7e8f9');
