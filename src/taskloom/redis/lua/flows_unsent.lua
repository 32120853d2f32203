-- Flows with a join that are ready since before a time, the oldest first. Message: {before, limit}.
local before, found = '(' .. string.format('%.0f', message[1]), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. 'ready', '-inf', before)) do
  local flow = read(id)
  if flow[8] ~= '' then
    found[#found + 1] = flow
  end
  if #found == message[2] then
    break
  end
end
return found
