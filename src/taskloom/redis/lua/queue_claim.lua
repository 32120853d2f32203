-- Lease tasks: those of lost leases and released ones first, then by arrival.
-- Message: {consumer, limit, lease in microseconds}.
-- Returns {new, claimed, bell, pause}: "" or when the group was made, until `queue_filled`; each
-- {entry, fields, claims, releases}; the last entry of the bell; the microseconds until time alone
-- makes something claimable, -1 for never.
local consumer, limit, lease = message[1], message[2], message[3]
local taken = {}
-- From the first entry on: what was put before anyone claimed is to be claimed too.
local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if not made.err then
  -- Kept, not only told: the answer to the one claim that made it may get lost.
  redis.call('SET', new, string.format('%.0f', now))
end

local function mature()
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, limit)
  for _, id in ipairs(due) do
    local kept = redis.call('HGET', bodies, id)
    local space = string.find(kept, ' ', 1, true)
    enter(id, string.sub(kept, 1, space - 1), string.sub(kept, space + 1))
    redis.call('HDEL', bodies, id)
    redis.call('ZREM', delayed, id)
  end
end

local function retake()
  local over = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)
  for _, entry in ipairs(over) do
    local got = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
    if got then
      local releases = tonumber(redis.call('HGET', released, entry) or 0)
      redis.call('ZADD', leases, now + lease, entry)
      local claims = claims_between(entry, entry, 1, consumer)[entry]
      taken[#taken + 1] = {entry, got[2], claims, releases}
    else
      drop({entry}) -- its bytes are gone: somebody deleted or trimmed them
    end
  end
end

local function take(count)
  local answer = redis.call(
    'XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>'
  )
  if not answer then
    return
  end
  local ends = {}
  for _, each in ipairs(answer[1][2]) do
    taken[#taken + 1] = {each[1], each[2], 1, 0}
    ends[#ends + 1] = now + lease
    ends[#ends + 1] = each[1]
  end
  for from = 1, #ends, PIECE do
    redis.call('ZADD', leases, unpack(ends, from, math.min(from + PIECE - 1, #ends)))
  end
end

mature()
retake()
if #taken < limit then
  take(limit - #taken)
end

local last, pause = '', -1
if #taken == 0 then
  local rung = redis.call('XREVRANGE', bell, '+', '-', 'COUNT', 1)[1]
  last = rung and rung[1] or '0-0'
  for _, key in ipairs({delayed, leases}) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first and (pause < 0 or first - now < pause) then
      pause = math.max(first - now, 0)
    end
  end
end
return {redis.call('GET', new) or '', taken, last, pause}
