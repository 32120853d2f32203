-- What the scripts of flows share. KEYS[1]: how all their keys start; they are made here, and share
-- its hash tag. ARGV[2]: a message. Times are microseconds.
--
-- A flow is a hash, flow:<id>: total, join (JSON, "" for none), state (open, ready, sent), started,
-- and from then on ended, end, failed, trigger, sent; "" stands for none. Its steps are a hash,
-- steps:<id>, from index to JSON. Indexes: sent (by sent) and,
-- of flows with a join only, all (by started) and ready (by ended).
local base, message = KEYS[1], cmsgpack.unpack(ARGV[2])

local function flow_key(id)
  return base .. 'flow:' .. id
end

local function steps_key(id)
  return base .. 'steps:' .. id
end

-- What `_Flow.read` takes, or nil.
local function read(id)
  local flow = redis.call(
    'HMGET', flow_key(id), 'total', 'state', 'end', 'failed', 'started', 'ended', 'trigger', 'join'
  )
  if not flow[1] then
    return nil
  end
  flow[#flow + 1] = redis.call('HLEN', steps_key(id))
  flow[#flow + 1] = id
  return flow
end

local function finish(id, how)
  redis.call('HSET', flow_key(id), 'state', 'ready', 'end', how, 'ended', now)
  if redis.call('HGET', flow_key(id), 'join') ~= '' then
    redis.call('ZADD', base .. 'ready', now, id)
  end
end
