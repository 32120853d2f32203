-- What the scripts of the storage share. KEYS[1]: how all its keys start; they are made here, and
-- share its hash tag. ARGV[2]: a message. Times are microseconds.
--
-- A task is a hash, task:<id>, with these fields; "" stands for none:
--   status queue type entity  as the task has them
--   created due expires updated started   its times
--   body stats result         JSON; stats, result, status and times here win over those in the body
--   epoch                     grows with each transition but the settle by the lease's owner
--   deliveries lease          since it was last settled; the end of its lease
--   rev                       grows with each change
-- and stands in these indexes:
--   all, queue:<queue>, status:<status>, entity:<entity>   by when it was made
--   moment:<status>           by due (scheduled), end of lease (processing), last change (others)
--   due:<queue>               scheduled ones, by due
--   expires                   those whose expiry matters, by it
--   counts                    a hash: "<status> <queue>" to how many
local base, message = KEYS[1], cmsgpack.unpack(ARGV[2])

local META = {
  'status', 'queue', 'type', 'entity', 'created', 'due', 'expires', 'updated', 'epoch',
  'deliveries', 'lease', 'rev'
}
local TERMINAL = {executed = 1, failed = 1, expired = 1, ignored = 1, cancelled = 1}
local WAITS = {scheduled = 1, queued = 1}
local EXPIRES = {scheduled = 1, queued = 1, expired = 1}

local function task_key(id)
  return base .. 'task:' .. id
end

-- The indexed fields of a task, or nil.
local function find(id)
  local values = redis.call('HMGET', task_key(id), unpack(META))
  if not values[1] then
    return nil
  end
  local row = {}
  for place, name in ipairs(META) do
    row[name] = values[place]
  end
  return row
end

-- What `read_row` makes a task of.
local function read(id)
  local values = redis.call(
    'HMGET', task_key(id), 'body', 'stats', 'result', 'status', 'updated', 'started', 'epoch',
    'deliveries', 'rev', 'queue', 'type'
  )
  values[#values + 1] = id
  return values
end

local function moment_of(row)
  if row.status == 'scheduled' then
    return row.due
  end
  if row.status == 'processing' and row.lease ~= '' then
    return row.lease
  end
  return row.updated
end

local function count(row, by)
  local field = row.status .. ' ' .. row.queue
  if redis.call('HINCRBY', base .. 'counts', field, by) == 0 then
    redis.call('HDEL', base .. 'counts', field)
  end
end

-- Into, and out of, the indexes that follow its status and times.
local function stand(id, row)
  redis.call('ZADD', base .. 'moment:' .. row.status, moment_of(row), id)
  redis.call('ZADD', base .. 'status:' .. row.status, row.created, id)
  if row.status == 'scheduled' then
    redis.call('ZADD', base .. 'due:' .. row.queue, row.due, id)
  end
  if row.expires ~= '' and EXPIRES[row.status] then
    redis.call('ZADD', base .. 'expires', row.expires, id)
  end
  count(row, 1)
end

local function leave(id, row)
  redis.call('ZREM', base .. 'moment:' .. row.status, id)
  redis.call('ZREM', base .. 'status:' .. row.status, id)
  if row.status == 'scheduled' then
    redis.call('ZREM', base .. 'due:' .. row.queue, id)
  end
  if row.expires ~= '' then
    redis.call('ZREM', base .. 'expires', id)
  end
  count(row, -1)
end

local function write(id, fields)
  local flat = {}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', task_key(id), unpack(flat))
end

-- Keep a new row.
local function insert(id, row)
  write(id, row)
  redis.call('ZADD', base .. 'all', row.created, id)
  redis.call('ZADD', base .. 'queue:' .. row.queue, row.created, id)
  if row.entity ~= '' then
    redis.call('ZADD', base .. 'entity:' .. row.entity, row.created, id)
  end
  stand(id, row)
end

local function remove(id, row)
  leave(id, row)
  redis.call('ZREM', base .. 'all', id)
  redis.call('ZREM', base .. 'queue:' .. row.queue, id)
  if row.entity ~= '' then
    redis.call('ZREM', base .. 'entity:' .. row.entity, id)
  end
  redis.call('DEL', task_key(id))
end

local function add(id, row)
  if redis.call('EXISTS', task_key(id)) == 1 then
    return false
  end
  insert(id, row)
  return true
end

-- Set some fields of a row that `find` found.
local function change(id, row, fields)
  leave(id, row)
  fields.rev = row.rev + 1
  for name, value in pairs(fields) do
    row[name] = value
  end
  write(id, fields)
  stand(id, row)
end

-- Put another task under a known id; `fields` are set in it.
local function replace(id, row, new, fields)
  remove(id, row)
  for name, value in pairs(fields) do
    new[name] = value
  end
  new.rev = row.rev + 1
  insert(id, new)
end

-- At most `limit` tasks whose lease ended wait again; what their holder reports comes too late.
local function lapse(at, limit)
  local over = redis.call(
    'ZRANGEBYSCORE', base .. 'moment:processing', '-inf', at, 'LIMIT', 0, limit
  )
  for _, id in ipairs(over) do
    local row = find(id)
    change(id, row, {status = 'scheduled', updated = at, epoch = row.epoch + 1, lease = ''})
  end
  return #over
end

local function lease(id, row, at, upto)
  change(id, row, {
    status = 'processing', started = at, updated = at, epoch = row.epoch + 1,
    deliveries = row.deliveries + 1, lease = upto
  })
  return read(id)
end
