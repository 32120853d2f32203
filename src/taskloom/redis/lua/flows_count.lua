-- Count steps of an open flow, then end it where that is due. Message: {id, steps, abort, trigger}: each
-- {index, failed, JSON}; `trigger` the index that an abort is put down to, or "".
-- Returns the flow as it is then; nothing when it is unknown; the index when it has no such step.
local id, steps, abort, trigger = message[1], message[2], message[3], message[4]
local flow = read(id)
if not flow then
  return nil
end
local total = tonumber(flow[1])
for _, step in ipairs(steps) do
  if step[1] < 0 or step[1] >= total then
    return step[1]
  end
end
if flow[2] == 'open' then
  for _, step in ipairs(steps) do
    if redis.call('HSETNX', steps_key(id), step[1], step[3]) == 1 and step[2] then
      redis.call('HINCRBY', flow_key(id), 'failed', 1)
    end
  end
  if abort then
    redis.call('HSET', flow_key(id), 'trigger', trigger)
    finish(id, 'aborted')
  elseif redis.call('HLEN', steps_key(id)) == total then
    finish(id, 'completed')
  end
end
return read(id)
