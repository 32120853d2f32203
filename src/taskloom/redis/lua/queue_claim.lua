-- Lease tasks: those of lost leases and released ones first, then by arrival.
-- Message: {consumer, limit, lease in microseconds}.
-- Returns {new, groups, shape, bytes, bell, pause}: "" or when the group was made, until
-- `queue_filled`; batch or "" and how many of what follows are in it, in turn; a message with five
-- numbers for each task: the lengths of entry, id (-1: nobody here wrote it) and body, deliveries
-- and claims; those strings, one after the other; the last entry of the bell; the microseconds until
-- time alone makes something claimable, -1 for never. (A table for each task would cost more than
-- all the rest, here and where it is read.)
local consumer, limit, lease = message[1], message[2], message[3]
local taken, groups, shape, bytes = 0, {}, {}, {}
-- From the first entry on: what was put before anyone claimed is to be claimed too.
local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if not made.err then
  -- Nothing is pending in a new group, whatever was in one before it.
  redis.call('DEL', batches, leases, released)
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

local function hand_out(entry, fields, claims, releases)
  local id, before, body = fields[2], fields[4], fields[6]
  local length, deliveries = -1, claims
  if #fields == 6 and #before < 10 and string.find(before, '^%d+$') then
    length, deliveries = #id, before + claims - releases
  else
    id, body = '', table.concat(fields, ' ')
  end
  -- One after the other: a table that is filled in another order becomes a slow one.
  local at, place = 5 * taken, 3 * taken
  shape[at + 1] = #entry
  shape[at + 2] = length
  shape[at + 3] = #body
  shape[at + 4] = deliveries
  shape[at + 5] = claims
  bytes[place + 1] = entry
  bytes[place + 2] = id
  bytes[place + 3] = body
  taken = taken + 1
end

local function retake()
  local over = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)
  for _, entry in ipairs(over) do
    local got = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
    if got then
      local releases = tonumber(redis.call('HGET', released, entry) or 0)
      redis.call('ZADD', leases, now + lease, entry)
      hand_out(entry, got[2], claims_between(entry, entry, 1, consumer)[entry], releases)
    else
      drop({entry}) -- its bytes are gone: somebody deleted or trimmed them
    end
  end
  groups[1], groups[2] = '', taken
end

-- Returns whether there may be more.
local function take(count)
  local answer = redis.call(
    'XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>'
  )
  if not answer then
    return false
  end
  local entries = answer[1][2]
  local batch = entries[1][1] .. ' ' .. entries[#entries][1] .. ' ' .. consumer
  redis.call('ZADD', batches, now + lease, batch)
  for _, each in ipairs(entries) do
    hand_out(each[1], each[2], 1, 0)
  end
  groups[#groups + 1], groups[#groups + 2] = batch, #entries
  return #entries == count
end

mature()
part(limit)
retake()
while taken < limit and take(math.min(limit - taken, PIECE)) do
end

local last, pause = '', -1
if taken == 0 then
  local rung = redis.call('XREVRANGE', bell, '+', '-', 'COUNT', 1)[1]
  last = rung and rung[1] or '0-0'
  for _, key in ipairs({delayed, leases, batches}) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first and (pause < 0 or first - now < pause) then
      pause = math.max(first - now, 0)
    end
  end
end
return {
  redis.call('GET', new) or '', groups, cmsgpack.pack(shape), table.concat(bytes), last, pause
}
